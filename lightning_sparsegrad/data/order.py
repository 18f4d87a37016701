"""The order of the train split."""

from collections.abc import Iterator
from itertools import chain, cycle, islice
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DistributedSampler

_POOL = 50  # batches that are sorted together


class LengthGroupedSampler(DistributedSampler[Any]):
    """Random batches of rows of similar length, so that padding takes little.

    The rows are shuffled as `DistributedSampler` does, sorted by length within pools of 50 batches of all processes
    together, and the batches shuffled again. The order is a function of seed and epoch alone, and each process takes
    its rows of the same global batches.

    Args:
        rows: The rows.
        lengths: The length of each row, in tokens.
        batch_size: Rows per batch and process.
        **kwargs: What `DistributedSampler` takes: `num_replicas`, `rank` and `seed`.
    """

    def __init__(self, rows: Dataset, lengths: list[int], batch_size: int, **kwargs: Any) -> None:
        super().__init__(rows, shuffle=True, **kwargs)
        self._lengths, self._batch = lengths, batch_size * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        order = list(islice(cycle(order), self.total_size))  # as many rows for each process
        pool = _POOL * self._batch
        grouped = [
            row
            for start in range(0, len(order), pool)
            for row in sorted(order[start : start + pool], key=self._lengths.__getitem__, reverse=True)
        ]
        batches = [grouped[start : start + self._batch] for start in range(0, len(grouped), self._batch)]
        short = batches.pop() if len(batches[-1]) < self._batch else []  # the short one stays last
        shuffled = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
        for batch in chain(shuffled, [short]):
            yield from batch[self.rank :: self.num_replicas]


def lengths_of(rows: Dataset) -> list[int]:
    """Return how many tokens each encoded row has; how many windows, where there are several."""
    column = "windows" if "windows" in rows.column_names else "input_ids"
    found: list[int] = rows.with_format("arrow")[:].column(column).combine_chunks().value_lengths().to_pylist()
    return found
