"""Samplers: batches of similar length for training, and rows shared once by processes for evaluation."""

from collections.abc import Iterator, Sized
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DistributedSampler
from typing_extensions import override

if TYPE_CHECKING:
    from datasets import Dataset

_POOL = 50  # batches sorted together


class LengthGroupedSampler(DistributedSampler[Any]):
    """Sampler of random batches of rows of similar length, which need little padding.

    The rows are shuffled like `DistributedSampler`'s, sorted by length within pools of 50 global batches, and the
    batches are shuffled again. The order depends only on seed and epoch, and each process takes its share of the same
    global batches.

    Args:
        rows: The rows.
        lengths: The length of each row, in tokens.
        batch_size: Rows per batch and process.
        **kwargs: Arguments of `DistributedSampler`: `num_replicas`, `rank` and `seed`.
    """

    def __init__(self, rows: "Dataset", lengths: list[int], batch_size: int, **kwargs: Any) -> None:
        super().__init__(rows, shuffle=True, **kwargs)
        self._lengths, self._batch = lengths, batch_size * self.num_replicas

    @override
    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        order = list(islice(cycle(order), self.total_size))  # the same number for each process
        pool = _POOL * self._batch
        grouped = [
            row
            for start in range(0, len(order), pool)
            for row in sorted(order[start : start + pool], key=self._lengths.__getitem__, reverse=True)
        ]
        batches = [grouped[start : start + self._batch] for start in range(0, len(grouped), self._batch)]
        short = batches.pop() if len(batches[-1]) < self._batch else []  # the short one stays last
        shuffled = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
        for batch in chain(shuffled, [short]):
            yield from batch[self.rank :: self.num_replicas]


class UnrepeatedSampler(DistributedSampler[Any]):
    """Sampler of each row once over all processes, in the batches of one process, for validation, test and prediction.

    Processes take the batches in turn. Lightning gives every loader without one a `DistributedSampler`, which repeats
    rows so that each process has the same number. With this sampler, a process may have fewer rows than others, or
    none. All have the same number of *batches*, because all processes take part in the forward pass of a model that is
    sharded or broadcasts buffers. A process with one batch less gets a **filler**, a batch of only the last row, which
    should not be counted (`is_filler`). The tasks and `PredictionWriter` of this library leave it out.

    Args:
        rows: The rows.
        batch_size: Rows per batch and process, equal to the loader's.
        num_replicas: The number of processes; by default that of the process group.
        rank: The rank of this process; by default its rank in the process group.

    Example:
        >>> [list(UnrepeatedSampler(range(5), batch_size=2, num_replicas=2, rank=rank)) for rank in (0, 1)]
        [[0, 1, 4], [2, 3, 4]]
        >>> UnrepeatedSampler(range(5), batch_size=2, num_replicas=2, rank=1).is_filler(1)
        True
    """

    def __init__(
        self, rows: Sized, batch_size: int, *, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        super().__init__(rows, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]  # it only needs a length
        every, size = batch_size * self.num_replicas, len(rows)
        starts = range(self.rank * batch_size, size, every)
        self._own = [row for start in starts for row in range(start, min(start + batch_size, size))]
        self._batches, self._filler = len(starts), [size - 1] * (len(range(0, size, every)) - len(starts))
        self.num_samples, self.total_size = len(self._own) + len(self._filler), size

    @override
    def __iter__(self) -> Iterator[int]:
        return chain(self._own, self._filler)

    def is_filler(self, batch_idx: int) -> bool:
        """Return whether the batch at an index is a filler."""
        return batch_idx >= self._batches


def is_filler(loader: Any, batch_idx: int) -> bool:
    """Return whether the batch of a loader at an index is the filler of an `UnrepeatedSampler`."""
    # for prediction, Lightning wraps the batch sampler, so that the loader's own is another
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return isinstance(sampler, UnrepeatedSampler) and sampler.is_filler(batch_idx)


def repeated_rows(loader: Any) -> int:
    """Return the number of rows that the loader's `DistributedSampler` repeats, so that they are evaluated twice."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return 0
    return max(0, sampler.total_size - len(sampler.dataset))  # type: ignore[arg-type]  # it only needs a length


def lengths_of(rows: "Dataset") -> list[int]:
    """Return the number of tokens of each encoded row, or its number of features if it can have several."""
    column = "windows" if "windows" in rows.column_names else "input_ids"
    lengths: list[int] = rows.with_format("arrow")[:].column(column).combine_chunks().value_lengths().to_pylist()
    return lengths
