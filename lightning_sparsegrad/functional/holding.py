"""Tensors of which only some entries or rows train: the others get no gradient, and are restored after a step."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size

_CPU_BLOCK = 1 << 20  # entries: fewer would cost more in starts of threads than they gain from the cache
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes
_PROBES = 1 << 12


def keep_entries_(gradient: Tensor, mask: Tensor) -> None:
    """Multiply all entries outside a mask by zero, in place; an overflow stays visible, as NaN.

    Args:
        gradient: Any tensor.
        mask: Boolean tensor of its shape and on its device, contiguous: `True` for entries that keep their bits.
    """
    flat = gradient.contiguous().view(-1)  # of the gradient itself, unless its layout is another
    for piece, bits, factors in _blocks(flat, mask, gradient.dtype):
        piece.mul_(factors.copy_(bits))
    if not gradient.is_contiguous():
        gradient.copy_(flat.view(gradient.shape))


def keep_rows_(gradient: Tensor, rows: Tensor) -> None:
    """Multiply all other slices along dim 0 by zero, in place; an overflow stays visible, as NaN.

    Args:
        gradient: A tensor of one dimension or more.
        rows: Indices of the rows that keep their bits, each once; int64, on its device.
    """
    kept = gradient.index_select(0, rows)
    gradient.mul_(0)
    gradient.index_copy_(0, rows, kept)


def restore_entries_(weight: Tensor, before: Tensor, mask: Tensor) -> None:
    """Restore all entries outside a mask from a copy of the weight, in place; see `keep_entries_`."""
    if not (weight.is_contiguous() and before.is_contiguous()) or not _is_mixed(mask):
        torch.where(mask, weight, before, out=weight)
        return
    integer = _INTEGERS[weight.element_size()]
    new, old = weight.view(-1).view(integer), before.view(-1).view(integer)
    blocks = zip(_blocks(new, mask, integer), torch.split(old, _size(old)), strict=True)
    for (piece, bits, kept), some in blocks:
        piece.bitwise_xor_(some).mul_(kept.copy_(bits)).bitwise_xor_(some)  # of integers: exact


def _blocks(flat: Tensor, mask: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the blocks of a flat tensor, each with its part of a mask, as bytes, and room for as many numbers."""
    bits = mask.view(-1).view(torch.uint8)  # which is converted several times as fast as booleans
    size = _size(flat)
    numbers = torch.empty(min(size, flat.numel()), dtype=dtype, device=flat.device)
    for piece, some in zip(torch.split(flat, size), torch.split(bits, size), strict=True):
        yield piece, some, numbers[: piece.numel()]


def _size(flat: Tensor) -> int:
    return _CPU_BLOCK if flat.is_cpu else block_size(flat.device)


def _is_mixed(mask: Tensor) -> bool:
    """Return whether `where` would take several times as long: on a CPU, which then cannot predict its branches."""
    if not mask.is_cpu or not mask.numel():
        return False
    probes = mask.view(-1)[:: max(1, mask.numel() // _PROBES)]
    return 0.1 < float(probes.count_nonzero()) / probes.numel() < 0.9


def restore_rows_(weight: Tensor, before: Tensor, rows: Tensor) -> None:
    """Restore all other slices along dim 0 from a copy of the weight, in place; see `keep_rows_`."""
    before.index_copy_(0, rows, weight.index_select(0, rows))
    weight.copy_(before)
