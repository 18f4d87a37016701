"""The order of rows: of the train split, and of those that several processes share to evaluate."""

from collections.abc import Iterator, Sized
from itertools import chain, cycle, islice
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DistributedSampler
from typing_extensions import override

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

    @override
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


class UnrepeatedSampler(DistributedSampler[Any]):
    """Each row once over all processes, in the batches of one process: for validation, test and prediction.

    Processes take the batches in turn. Lightning puts a `DistributedSampler` into every loader that has none, which
    gives each process the same number of rows and repeats some for it. Here a process may have fewer rows than others,
    or none. All have the same number of *batches*, because all processes take part in the forward pass of a model that
    is sharded or whose buffers are broadcast: where one has a batch less, a **filler** follows, a batch of the last
    row alone, which should not be counted (`is_filler`). The tasks and `PredictionWriter` of this library leave it out.

    Args:
        rows: The rows.
        batch_size: Rows per batch and process, as the loader has it.
        num_replicas: The number of processes; by default that of the process group.
        rank: The place of this process among them; by default its rank.

    Example:
        >>> [list(UnrepeatedSampler(range(5), batch_size=2, num_replicas=2, rank=rank)) for rank in (0, 1)]
        [[0, 1, 4], [2, 3, 4]]
        >>> UnrepeatedSampler(range(5), batch_size=2, num_replicas=2, rank=1).is_filler(1)
        True
    """

    def __init__(
        self, rows: Sized, batch_size: int, *, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        super().__init__(rows, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]  # takes its length
        every, size = batch_size * self.num_replicas, len(rows)
        starts = range(self.rank * batch_size, size, every)
        self._own = [row for start in starts for row in range(start, min(start + batch_size, size))]
        self._batches, self._filler = len(starts), [size - 1] * (len(range(0, size, every)) - len(starts))
        self.num_samples, self.total_size = len(self._own) + len(self._filler), size

    @override
    def __iter__(self) -> Iterator[int]:
        return chain(self._own, self._filler)

    def is_filler(self, batch_idx: int) -> bool:
        """Return whether the batch at a place only makes the batches as many as those of other processes."""
        return batch_idx >= self._batches


def is_filler(loader: Any, batch_idx: int) -> bool:
    """Return whether the batch of a loader at a place is the filler of an `UnrepeatedSampler`."""
    # when predicting, Lightning wraps the batch sampler, and the loader's own is another
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return isinstance(sampler, UnrepeatedSampler) and sampler.is_filler(batch_idx)


def repeated_rows(loader: Any) -> int:
    """Return how many rows several processes evaluate twice, as the loader's `DistributedSampler` repeats them."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return 0
    return max(0, sampler.total_size - len(sampler.dataset))  # type: ignore[arg-type]  # it takes the length itself


def lengths_of(rows: Dataset) -> list[int]:
    """Return how many tokens each encoded row has; how many windows, where there are several."""
    column = "windows" if "windows" in rows.column_names else "input_ids"
    found: list[int] = rows.with_format("arrow")[:].column(column).combine_chunks().value_lengths().to_pylist()
    return found
