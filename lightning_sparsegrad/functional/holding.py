"""Tensors of which only some entries or rows train: the others get no gradient, and are restored after a step."""

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size, pieces

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


def keep_entries_(gradient: Tensor, mask: Tensor) -> None:
    """Multiply all entries outside a mask by zero, in place; an overflow stays visible, as NaN.

    Args:
        gradient: Any tensor.
        mask: Boolean tensor of its shape and on its device, contiguous: `True` for entries that keep their bits.
    """
    bits = mask.view(-1).view(torch.uint8)  # which is converted several times as fast as booleans
    factors = torch.empty(min(block_size(gradient.device), gradient.numel()), dtype=gradient.dtype, device=mask.device)
    for start, piece in pieces(gradient):
        some = factors[: piece.numel()].copy_(bits[start : start + piece.numel()])
        piece.mul_(some.view(piece.shape))


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
    if not (weight.is_cpu and weight.is_contiguous() and before.is_contiguous()):
        torch.where(mask, weight, before, out=weight)
        return
    # on a CPU, `where` takes several times as long for a mask without pattern, whose branches cannot be predicted
    integer = _INTEGERS[weight.element_size()]
    new, old, bits = weight.view(-1).view(integer), before.view(-1).view(integer), mask.view(-1).view(torch.uint8)
    words = torch.empty(min(block_size(weight.device), weight.numel()), dtype=integer)
    for start, piece in pieces(new):
        some, kept = old[start : start + piece.numel()], words[: piece.numel()]
        kept.copy_(bits[start : start + piece.numel()]).neg_()  # all bits of the entries that train
        piece.bitwise_xor_(some).bitwise_and_(kept).bitwise_xor_(some)


def restore_rows_(weight: Tensor, before: Tensor, rows: Tensor) -> None:
    """Restore all other slices along dim 0 from a copy of the weight, in place; see `keep_rows_`."""
    before.index_copy_(0, rows, weight.index_select(0, rows))
    weight.copy_(before)
