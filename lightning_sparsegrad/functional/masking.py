"""Bernoulli masks on gradients: which entries are kept is a hash of their index, how they are dropped is a product.

An entry is dropped by multiplying with zero, so that an infinite or undefined gradient stays visible (as NaN) to a
gradient scaler. This file is the eager path and the one place where masks meet memory.
"""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from lightning_sparsegrad.functional.hashing import hash_entries, keep_threshold

_CPU_CHUNK = 1 << 17  # entries whose hash stays in the cache of a core
_DEVICE_CHUNK = 1 << 24  # on an accelerator, few launches matter more than a cache
_WORD = 1 << 32


def keep_mask(
    shape: Sequence[int], key: int, rate: float, *, start: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Return a mask that keeps each entry with probability `1 - rate`.

    Args:
        shape: Shape of the mask.
        key: 64-bit key, see `derive_key`.
        rate: Expected fraction of dropped entries, in [0, 1].
        start: Global index of the first entry; entries are counted in row-major order.
        device: Where to compute.

    Returns:
        Boolean tensor of shape `shape`, `True` where the entry is kept.

    Example:
        >>> keep_mask((2, 4), key=7, rate=0.5)
        tensor([[False,  True,  True,  True],
                [ True,  True, False, False]])
    """
    device = torch.device(device)
    flat = [_keep(key, rate, position, count, device) for position, count in _chunks(start, prod(shape), device)]
    return torch.cat(flat).view(tuple(shape)) if flat else torch.ones(tuple(shape), dtype=torch.bool, device=device)


def mask_entries_(
    tensors: Sequence[Tensor], keys: Sequence[int], rates: Sequence[float], *, rescale: bool = False
) -> None:
    """Drop single entries of each tensor in place.

    Args:
        tensors: Gradients of any shape and floating dtype.
        keys: One key per tensor.
        rates: One drop rate per tensor, in [0, 1]. Nothing is launched where it is 0.
        rescale: Multiply what is kept by `1 / (1 - rate)`, so that the expectation is unchanged.
    """
    for tensor, key, rate in zip(tensors, keys, rates, strict=True):
        if rate == 0:
            continue
        if not tensor.is_contiguous():
            _multiply_(tensor, keep_mask(tensor.shape, key, rate, device=tensor.device), rate, rescale)
            continue
        flat = tensor.view(-1)
        for start, count in _chunks(0, flat.numel(), flat.device):
            _multiply_(flat[start : start + count], _keep(key, rate, start, count, flat.device), rate, rescale)


def mask_rows_(
    tensors: Sequence[Tensor], keys: Sequence[int], rates: Sequence[float], *, rescale: bool = False
) -> None:
    """Drop whole slices along dim 0 of each tensor in place; of a 1-D tensor, single entries.

    Args: as for `mask_entries_`; a 0-d tensor is one row.
    """
    for tensor, key, rate in zip(tensors, keys, rates, strict=True):
        if rate == 0:
            continue
        rows = tensor.shape[0] if tensor.ndim else 1
        mask = keep_mask((rows,), key, rate, device=tensor.device)
        _multiply_(tensor, mask.view(rows, *[1] * (tensor.ndim - 1)) if tensor.ndim else mask[0], rate, rescale)


def count_kept(numel: int, key: int, rate: float, device: torch.device) -> Tensor:
    """Return how many of `numel` entries a mask keeps, as a 0-d int64 tensor on `device`."""
    if rate == 0:
        return torch.tensor(numel, device=device)
    total = torch.zeros((), dtype=torch.int64, device=device)
    for start, count in _chunks(0, numel, device):
        total += _keep(key, rate, start, count, device).sum()
    return total


def _multiply_(tensor: Tensor, mask: Tensor, rate: float, rescale: bool) -> None:
    tensor.mul_(mask)
    if rescale:
        tensor.mul_(1 / (1 - rate))


def _keep(key: int, rate: float, start: int, count: int, device: torch.device) -> Tensor:
    threshold = keep_threshold(rate)
    if threshold == _WORD:  # one more than int32 can hold: nothing is kept
        return torch.zeros(count, dtype=torch.bool, device=device)
    return hash_entries(key, start, count, device) >= threshold - _WORD // 2


def _chunks(start: int, count: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Cut a range into pieces that fit the cache and do not cross a multiple of 2^32."""
    size, end = (_CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK), start + count
    while start < end:
        piece = min(size, end - start, _WORD - start % _WORD)
        yield start, piece
        start += piece
