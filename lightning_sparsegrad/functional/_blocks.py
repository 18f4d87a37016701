"""Blocks of entries that fit in the cache of a core, so that several passes over them cost one."""

from collections.abc import Iterator

import torch
from torch import Tensor

_CPU_BLOCK = 1 << 18
_DEVICE_BLOCK = 1 << 22  # on devices, few launches matter more than a cache


def block_size(device: torch.device) -> int:
    """Return the number of entries of a block, a power of two."""
    return _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK


def ranges(start: int, count: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Cut a range of entries at the multiples of the block size, into pairs of start and length."""
    size, end = block_size(device), start + count
    while start < end:
        length = min(size - start % size, end - start)
        yield start, length
        start += length


def pieces(tensor: Tensor, start: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Cut a tensor into views of about a block each, in row-major order.

    Args:
        tensor: Any tensor.
        start: Index of its first entry, for a tensor that is a slice of a larger one.

    Yields:
        The index of the first entry of a view, and the view.
    """
    if tensor.is_contiguous():
        flat = tensor.view(-1)
        for begin, length in ranges(start, flat.numel(), tensor.device):
            yield begin, flat[begin - start : begin - start + length]
    elif tensor.numel():
        row = tensor[0].numel()
        together = block_size(tensor.device) // row
        for first in range(0, tensor.shape[0], max(1, together)):
            if together:
                yield start + first * row, tensor[first : first + together]
            else:
                yield from pieces(tensor[first], start + first * row)
