"""The largest of many scores: exactly so many, whatever their ties, also in tensors that are sharded over processes.

The scores are mapped to integers of the same order, and the integer of the last selected one is looked up digit by
digit in histograms: memory does not grow with the number of scores, and the result depends on no order of summation.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import pieces
from lightning_sparsegrad.functional.sharding import Group

_DIGIT = 1 << 16  # values of one of the two digits of a key
_LEAST = -(1 << 31)  # the least key, of NaN


def select_largest(
    scores: Sequence[Tensor], count: int, *, groups: Sequence[Group | None] | None = None
) -> list[Tensor]:
    """Return which entries are the largest of all tensors together; of equal ones, the first.

    Reads numbers on the host.

    Args:
        scores: Scores of any shape: int32, or floating, compared in float32. NaN is smaller than any number.
        count: How many to select; all, if there are fewer.
        groups: For each tensor the processes over which it is sharded by rows, in which case this one passes the rows
            that it holds, even if there are none; `None` for a tensor that each process holds whole. By default, all
            are whole.

    Returns:
        For each tensor a boolean one of its shape and on its device; together, exactly `count` entries are selected.

    Example:
        >>> select_largest([torch.tensor([3.0, 1.0]), torch.tensor([2.0, 3.0])], count=3)
        [tensor([ True, False]), tensor([True, True])]
    """
    groups = [None] * len(scores) if groups is None else list(groups)
    high, left = _digit_of_last(_histograms(scores, groups, None), count)
    low, left = _digit_of_last(_histograms(scores, groups, high), left)
    bound = _LEAST + high * _DIGIT + low  # the key of the last that is selected, which `left` with this key are
    selected, ties = [], []
    for tensor in scores:
        keys = _keys(tensor)
        selected.append(keys > bound)
        ties.append(keys == bound)
    for chosen, tied, before in zip(selected, ties, _before(ties, groups), strict=True):
        if (wanted := left - before) > 0:
            chosen.view(-1)[tied.view(-1).nonzero().flatten()[:wanted]] = True
    return selected


def pack_bits(mask: Tensor) -> Tensor:
    """Return the bits of a boolean tensor in row-major order, eight to a byte, the first in the lowest bit.

    Returns:
        A flat uint8 tensor of `ceil(mask.numel() / 8)` entries.
    """
    bits = torch.nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8))
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (bits.view(-1, 8) << shifts).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the boolean tensor of a shape that `pack_bits` packed.

    Raises:
        ValueError: If these are not the bits of such a tensor.
    """
    require_bits(packed, shape)
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(1) >> shifts).view(-1) & 1
    return bits[: torch.Size(shape).numel()].bool().view(tuple(shape))


def require_bits(packed: Tensor, shape: Sequence[int]) -> None:
    """Raise a `ValueError` unless a tensor has the packed bits of a boolean tensor of a shape."""
    size = -(-torch.Size(shape).numel() // 8) if min(shape, default=0) >= 0 else -1
    if packed.dtype != torch.uint8 or packed.shape != (size,):
        raise ValueError(
            f"{size} bytes hold the bits of shape {tuple(shape)}, not {packed.dtype} {tuple(packed.shape)}"
        )


def _keys(scores: Tensor) -> Tensor:
    """Return int32 numbers in the order of the scores."""
    if scores.dtype == torch.int32:
        return scores.contiguous()
    numbers = scores.float().contiguous() + 0.0  # a copy, in which -0 is 0
    keys = numbers.view(torch.int32)
    return torch.where(numbers.isnan(), _LEAST, keys ^ ((keys >> 31) & 0x7FFFFFFF))


def _histograms(scores: Sequence[Tensor], groups: Sequence[Group | None], high: int | None) -> Tensor:
    """Count the keys by their high digit or, of those with a given high digit, by the low one."""
    counts = {  # by group: what each process of it counts is summed
        (group, tensor.device): torch.zeros(_DIGIT, dtype=torch.int64, device=tensor.device)
        for group, tensor in zip(groups, scores, strict=True)
    }
    for group, tensor in zip(groups, scores, strict=True):
        for _, piece in pieces(tensor):
            keys = _keys(piece).flatten().long() - _LEAST
            digits = keys // _DIGIT if high is None else keys[keys // _DIGIT == high] % _DIGIT
            counts[group, tensor.device] += torch.bincount(digits, minlength=_DIGIT)
    total = torch.zeros(_DIGIT, dtype=torch.int64)
    for (group, _), of_group in counts.items():
        if group is not None:
            torch.distributed.all_reduce(of_group, group=group)
        total += of_group.cpu()
    return total


def _digit_of_last(counts: Tensor, count: int) -> tuple[int, int]:
    """Return the digit of the last of the `count` largest keys, and how many of these have this digit."""
    largest = counts.flip(0).cumsum(0)  # how many keys have a digit, or a larger one
    left = min(count, int(largest[-1]))
    index = int(torch.searchsorted(largest, left))
    digit = len(counts) - 1 - index
    return digit, left - int(largest[index] - counts[digit])


def _before(ties: Sequence[Tensor], groups: Sequence[Group | None]) -> list[int]:
    """Return how many ties come before the first of each tensor, in the order of the whole tensors."""
    own = [int(tied.sum()) for tied in ties]
    whole, lower = list(own), [0] * len(own)
    for group in dict.fromkeys(group for group in groups if group is not None):
        mine = torch.tensor(own, device=next(t.device for t, g in zip(ties, groups, strict=True) if g is group))
        size, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
        rows = [torch.empty_like(mine) for _ in range(size)]
        torch.distributed.all_gather(rows, mine, group=group)
        numbers = torch.stack(rows).tolist()
        for index, each in enumerate(groups):
            if each is group:
                whole[index] = sum(row[index] for row in numbers)
                lower[index] = sum(row[index] for row in numbers[:rank])
    return [first + below for first, below in zip(accumulate(whole, initial=0), lower, strict=False)]
