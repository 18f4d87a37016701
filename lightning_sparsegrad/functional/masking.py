"""Bernoulli masks on gradients: which entries are kept is a hash of their index, how they are dropped is a product.

An entry is dropped by multiplying with zero, so that an infinite or undefined gradient stays visible (as NaN) to a
gradient scaler. A tensor goes one of four ways, which give the same bits: many small tensors share one hash; of a
matrix that is mostly rows of zeros, as the gradient of a word embedding is, the other rows are masked; a large tensor
goes through the compiled kernel of `fused`, or block by block through the cache.

Of a `DTensor` that is sharded by rows, each process masks what it holds, by the index in the whole tensor: the mask is
the same for every number of processes.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size, pieces, ranges
from lightning_sparsegrad.functional._fused import fused_mask_
from lightning_sparsegrad.functional._sharding import shard_of
from lightning_sparsegrad.functional.hashing import WORD, hash_entries, hash_indices, hash_stack, keep_threshold, signed

_SMALL = 1 << 13  # entries up to which launching costs more than hashing
_MANY_ROWS = 1 << 12  # rows from which it pays to look for rows of zeros
_PROBES = 64


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
    return _keep(key, rate, start, prod(shape), torch.device(device), torch.bool).view(tuple(shape))


def mask_entries_(
    tensors: Sequence[Tensor],
    keys: Sequence[int],
    rates: Sequence[float],
    *,
    rescale: bool = False,
    fused: bool = False,
) -> None:
    """Drop single entries of each tensor in place.

    Args:
        tensors: Gradients of any shape and floating dtype, whole or sharded by rows.
        keys: One key per tensor.
        rates: One drop rate per tensor, in [0, 1]. Nothing is launched where it is 0.
        rescale: Multiply what is kept by `1 / (1 - rate)`, so that the expectation is unchanged.
        fused: Use the compiled kernel for large tensors; it is compiled at its first use. The bits are the same.
    """
    small: list[_Small] = []
    for whole, key, rate in zip(tensors, keys, rates, strict=True):
        if rate == 0:
            continue
        shard, threshold = shard_of(whole), keep_threshold(rate)
        tensor = shard.local
        if threshold == WORD:  # one more than int32 can hold: nothing is kept
            tensor.mul_(0)
            continue
        if tensor.numel() <= _SMALL and shard.start % WORD + tensor.numel() <= WORD:
            small.append((tensor, shard.start, key, rate))
            continue
        factor = 1 / (1 - rate) if rescale else 1.0
        left = fused_mask_(tensor, shard.start, key, threshold, factor) if fused else None
        fits = shard.start + tensor.numel() < WORD
        if left is None and fits and (rows := _scattered_rows(tensor)) is not None:
            _mask_rows_of_entries_(tensor, shard.start, rows, key, rate, factor)
            continue
        for begin, part in [(shard.start, tensor)] if left is None else left:
            for start, piece in pieces(part, begin):
                mask = _keep(key, rate, start, piece.numel(), tensor.device, tensor.dtype)
                _multiply_(piece, mask.view(piece.shape), factor)
    _mask_small_(small, rescale=rescale)


def mask_rows_(
    tensors: Sequence[Tensor], keys: Sequence[int], rates: Sequence[float], *, rescale: bool = False
) -> None:
    """Drop whole slices along dim 0 of each tensor in place; of a 1-D tensor, single entries.

    Args: as for `mask_entries_`; a 0-d tensor is one row.
    """
    for whole, key, rate in zip(tensors, keys, rates, strict=True):
        if rate == 0:
            continue
        shard = shard_of(whole)
        tensor = shard.local
        rows = tensor.shape[0] if tensor.ndim else 1
        mask = _keep(key, rate, shard.first_row, rows, tensor.device, tensor.dtype)
        shape = (rows, *[1] * (tensor.ndim - 1)) if tensor.ndim else ()
        _multiply_(tensor, mask.view(shape), 1 / (1 - rate) if rescale else 1.0)


def count_kept(numel: int, key: int, rate: float, device: torch.device) -> Tensor:
    """Return how many of `numel` entries a mask keeps, as a 0-d int64 tensor on `device`."""
    if rate == 0:
        return torch.tensor(numel, device=device)
    total = torch.zeros((), dtype=torch.int64, device=device)
    for start, count in ranges(0, numel, device):
        total += _keep(key, rate, start, count, device, torch.bool).sum()
    return total


def _multiply_(tensor: Tensor, mask: Tensor, factor: float) -> None:
    tensor.mul_(mask)
    if factor != 1:
        tensor.mul_(factor)


def _keep(key: int, rate: float, start: int, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a flat mask of zeros and ones in the dtype of the gradient, whose product is the fastest."""
    threshold = keep_threshold(rate)
    mask = torch.empty(count, dtype=dtype, device=device)
    if threshold == WORD:  # one more than int32 can hold: nothing is kept
        return mask.zero_()
    for begin, length in ranges(start, count, device):
        hashes = hash_entries(key, begin, length, device)
        torch.ge(hashes, threshold - WORD // 2, out=mask[begin - start : begin - start + length])
    return mask


# ---------------------------------------------------------------- ways through a tensor
_Small = tuple[Tensor, int, int, float]  # a tensor, the index of its first entry, its key and its rate


def _mask_small_(small: Sequence[_Small], *, rescale: bool) -> None:
    """Mask tensors of a similar size together."""
    groups: dict[tuple[torch.device, torch.dtype, int], list[_Small]] = {}
    for each in small:
        tensor = each[0]
        size = max(tensor.numel() - 1, 0).bit_length()  # up to twice the smallest
        groups.setdefault((tensor.device, tensor.dtype, size), []).append(each)
    for (device, _, size), group in groups.items():
        together = max(1, block_size(device) >> size)
        for first in range(0, len(group), together):
            _mask_stack_(group[first : first + together], rescale=rescale)


def _mask_stack_(group: Sequence[_Small], *, rescale: bool) -> None:
    tensors, starts, keys, rates = zip(*group, strict=True)
    device = tensors[0].device
    hashes = hash_stack(keys, starts, max(tensor.numel() for tensor in tensors), device)
    thresholds = torch.tensor([keep_threshold(rate) - WORD // 2 for rate in rates], dtype=torch.int32, device="cpu")
    masks = torch.empty(hashes.shape, dtype=tensors[0].dtype, device=device)
    torch.ge(hashes, thresholds.view(-1, 1).to(device, non_blocking=True), out=masks)
    views = [mask[: tensor.numel()].view(tensor.shape) for mask, tensor in zip(masks.unbind(), tensors, strict=True)]
    torch._foreach_mul_(list(tensors), views)
    if rescale:
        for tensor, rate in zip(tensors, rates, strict=True):
            tensor.mul_(1 / (1 - rate))


def _scattered_rows(tensor: Tensor) -> Tensor | None:
    """Return the rows that are not all zeros if they are few, else `None`; on the CPU alone, where reading is free.

    A mask leaves a row of zeros as it is. Rows are told by their bytes, so that no square underflows.
    """
    if tensor.device.type != "cpu" or tensor.ndim < 2 or tensor.shape[0] < _MANY_ROWS:
        return None
    if not tensor.is_contiguous():
        return None
    flat = tensor.view(-1).view(torch.uint8).view(tensor.shape[0], -1)
    most = flat.shape[0] // 4
    if flat[:: flat.shape[0] // _PROBES].amax(dim=1).count_nonzero() > _PROBES // 4:
        return None
    rows = flat.amax(dim=1).nonzero().flatten()
    return rows if len(rows) <= most else None


def _mask_rows_of_entries_(tensor: Tensor, start: int, rows: Tensor, key: int, rate: float, factor: float) -> None:
    """Drop single entries of some rows of a tensor whose first entry has the index `start`."""
    matrix = tensor.view(tensor.shape[0], -1)
    width = matrix.shape[1]
    threshold = keep_threshold(rate) - WORD // 2
    columns = torch.arange(width, dtype=torch.int32, device=tensor.device) + signed(start)
    for some in torch.split(rows, max(1, block_size(tensor.device) // width)):
        indices = some.to(torch.int32).view(-1, 1) * width + columns  # modulo 2^32, as the hash takes them
        entries = matrix.index_select(0, some)
        _multiply_(entries, torch.ge(hash_indices(key, indices), threshold, out=torch.empty_like(entries)), factor)
        matrix.index_copy_(0, some, entries)
