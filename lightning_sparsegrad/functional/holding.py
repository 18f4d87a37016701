"""Tensors of which only some entries or rows train: the others get no gradient, and are restored after a step."""

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size, pieces


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
    torch.where(mask, weight, before, out=weight)


def restore_rows_(weight: Tensor, before: Tensor, rows: Tensor) -> None:
    """Restore all other slices along dim 0 from a copy of the weight, in place; see `keep_rows_`."""
    before.index_copy_(0, rows, weight.index_select(0, rows))
    weight.copy_(before)
