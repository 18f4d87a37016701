"""What a call masks, and how: many small tensors of similar size together, each large one alone.

How depends on shapes, dtypes, devices and starts only. It is computed once for those of a model and kept, so that a
window costs the host little more than the launches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from math import prod

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size
from lightning_sparsegrad.functional.hashing import WORD, keep_threshold, stack_words
from lightning_sparsegrad.functional.sharding import shard_of

SMALL = 1 << 13  # units up to which launching costs more than hashing
Kind = tuple[torch.Size, torch.dtype, torch.device]


@dataclass(frozen=True)
class Masked:
    """A tensor to mask.

    Args:
        tensor: The rows that this process holds.
        start: Index of its first unit, an entry or a row.
        key: 64-bit key.
        threshold: The smallest hash that is kept, below 2^32.
        factor: The factor of what is kept.
    """

    tensor: Tensor
    start: int
    key: int
    threshold: int
    factor: float


@dataclass(frozen=True)
class Draws:
    """The tensors to mask in one call: a list for each field of `Masked`."""

    tensors: list[Tensor]
    starts: list[int]
    keys: list[int]
    thresholds: list[int]
    factors: list[float]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What, with the starts, decides how the tensors are masked."""
        return tuple([(tensor.shape, tensor.dtype, tensor.device) for tensor in self.tensors])

    def columns(self, indices: Sequence[int]) -> tuple[list[Tensor], list[int], list[int], list[int], list[float]]:
        """Return the lists for some of them, in the order of the fields."""
        return (
            [self.tensors[index] for index in indices],
            [self.starts[index] for index in indices],
            [self.keys[index] for index in indices],
            [self.thresholds[index] for index in indices],
            [self.factors[index] for index in indices],
        )

    def one(self, index: int) -> Masked:
        """Return one of them."""
        return Masked(*[column[0] for column in self.columns([index])])  # type: ignore[arg-type]  # one of each

    def words(self, stack: "Stack") -> Tensor:
        """Return the words of a stack, see `hash_stack`, and the bits of the factors as float32 in a fifth column."""
        chosen = ([column[index] for index in stack.indices] for column in (self.keys, self.starts, self.thresholds))
        factors = torch.tensor([self.factors[index] for index in stack.indices], dtype=torch.float32, device="cpu")
        return torch.cat([stack_words(*chosen, folded=stack.folded), factors.view(torch.int32).unsqueeze(-1)], dim=1)


@dataclass(frozen=True)
class Stack:
    """Tensors of similar size whose masks are rows of one matrix.

    Args:
        indices: Which of the tensors; those of one shape next to each other.
        device: Their device.
        dtype: Their dtype.
        count: The largest number of units in a tensor.
        runs: For each shape of masks: the number of tensors, the units in each and the shape.
        folded: Whether all of them start at 0.
    """

    indices: list[int]
    device: torch.device
    dtype: torch.dtype
    count: int
    runs: list[tuple[int, int, tuple[int, ...]]]
    folded: bool


@dataclass(frozen=True)
class Plan:
    """How tensors of given shapes are masked: some in stacks, some each alone."""

    stacks: list[Stack]
    large: list[int]


def draw(
    tensors: Sequence[Tensor], keys: Sequence[int], rates: Sequence[float], *, rescale: bool, by_row: bool = False
) -> Draws:
    """Return what is left to mask without the rate 0, after dropping what has the rate 1."""
    if not len(tensors) == len(keys) == len(rates):
        raise ValueError(f"{len(tensors)} tensors, {len(keys)} keys and {len(rates)} rates")
    if all(type(tensor) is Tensor for tensor in tensors):
        local, starts = list(tensors), [0] * len(tensors)
    else:
        shards = [shard_of(tensor) for tensor in tensors]
        local = [shard.local for shard in shards]
        starts = [shard.first_row if by_row else shard.start for shard in shards]
    known = {rate: keep_threshold(rate) for rate in set(rates)}
    factor = {rate: 1 / (1 - rate) if rescale and threshold < WORD else 1.0 for rate, threshold in known.items()}
    if all(rate > 0 and known[rate] < WORD for rate in known):
        return Draws(local, starts, list(keys), [known[rate] for rate in rates], [factor[rate] for rate in rates])
    draws = Draws([], [], [], [], [])
    for tensor, start, key, rate in zip(local, starts, keys, rates, strict=True):
        if known[rate] == WORD:  # one more than int32 can hold: drop everything
            tensor.mul_(0)
        elif rate:
            draws.tensors.append(tensor)
            draws.starts.append(start)
            draws.keys.append(key)
            draws.thresholds.append(known[rate])
            draws.factors.append(factor[rate])
    return draws


@lru_cache(maxsize=64)
def plan_masks(kinds: tuple[Kind, ...], starts: tuple[int, ...], *, by_row: bool) -> Plan:
    """Group tensors of similar size, as many as fit in one block."""
    groups: dict[tuple[torch.device, torch.dtype, int], list[tuple[tuple[int, ...], int]]] = {}
    large = []
    for index, ((shape, dtype, device), start) in enumerate(zip(kinds, starts, strict=True)):
        mask = (*shape[:1], *[1] * (len(shape) - 1)) if by_row else tuple(shape)
        units = prod(mask)
        if units > SMALL or start % WORD + units > WORD:
            large.append(index)
            continue
        size = max(units - 1, 0).bit_length()  # up to twice the smallest
        groups.setdefault((device, dtype, size), []).append((mask, index))
    stacks = []
    for (device, dtype, size), group in groups.items():
        together = max(1, block_size(device) >> size)
        group.sort()
        for first in range(0, len(group), together):
            some = group[first : first + together]
            runs = [(len(list(same)), prod(mask), mask) for mask, same in groupby(mask for mask, _ in some)]
            indices = [index for _, index in some]
            folded = not any(starts[index] for index in indices)
            stacks.append(Stack(indices, device, dtype, max(units for _, units, _ in runs), runs, folded))
    return Plan(stacks, large)
