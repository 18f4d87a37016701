"""Bernoulli masks on gradients: a hash of its index decides whether an entry is kept, and a product drops it.

An entry is dropped by multiplying by zero, so that an infinite or undefined gradient stays visible (as NaN) to a
gradient scaler. There are four ways to mask a tensor, with the same bits: many small tensors share one hash; in a
matrix of mostly zero rows, such as the gradient of a word embedding, only the other rows are masked; a large tensor
goes through the compiled kernel of `_fused`, or block by block through the cache.

In a `DTensor` that is sharded by rows, each process masks the rows that it holds, by the index in the whole tensor: the
mask is the same for any number of processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from struct import pack, unpack

import torch
from torch import Tensor

from lightning_sparsegrad.functional import _triton
from lightning_sparsegrad.functional._blocks import block_size, pieces, ranges
from lightning_sparsegrad.functional._fused import fused_mask_, fused_words
from lightning_sparsegrad.functional._torch import multiply_
from lightning_sparsegrad.functional._triton import mask_list_
from lightning_sparsegrad.functional._words import send_rows
from lightning_sparsegrad.functional.hashing import (
    WORD,
    entry_words,
    hash_entries,
    hash_indices,
    hash_stack,
    keep_threshold,
    signed,
)
from lightning_sparsegrad.functional.sharding import shard_of

_SMALL = 1 << 13  # entries up to which launching costs more than hashing
_MANY_ROWS = 1 << 12  # number of rows from which it pays to look for zero rows
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
    return _keep(key, keep_threshold(rate), start, prod(shape), torch.device(device), torch.bool).view(tuple(shape))


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
        rates: One drop rate per tensor, in [0, 1]. Nothing is launched for a rate of 0.
        rescale: Multiply the kept entries by `1 / (1 - rate)`, so that the expectation is unchanged.
        fused: Use the compiled kernel for large tensors, with the same bits; it is compiled at its first use.
    """
    small: list[_Masked] = []
    large: list[_Masked] = []
    listed: dict[tuple[torch.device, torch.dtype], list[_Masked]] = {}
    for whole, key, rate in zip(tensors, keys, rates, strict=True):
        if rate == 0:
            continue
        shard, threshold = shard_of(whole), keep_threshold(rate)
        tensor = shard.local
        if threshold == WORD:  # one more than int32 can hold: drop everything
            tensor.mul_(0)
            continue
        masked = _Masked(tensor, shard.start, key, threshold, 1 / (1 - rate) if rescale else 1.0)
        if tensor.device.type in _triton.DEVICES and tensor.is_contiguous():
            listed.setdefault((tensor.device, tensor.dtype), []).append(masked)
        else:
            (small if _is_small(masked) else large).append(masked)
    for group in listed.values():
        columns = zip(
            *((each.tensor, each.start, each.key, each.threshold, each.factor) for each in group), strict=True
        )
        if not mask_list_(*columns):
            for masked in group:
                (small if _is_small(masked) else large).append(masked)
    stacks, compiled = list(_stacks(small)), {}
    for index, masked in enumerate(large) if fused else ():
        row = fused_words(masked.tensor, masked.start, masked.key, masked.threshold)
        if row is not None:
            compiled[index] = row
    blocks = [(stack[0].tensor.device, _stack_words(stack)) for stack in stacks]
    words = send_rows(blocks + [(large[index].tensor.device, [row]) for index, row in compiled.items()])
    by_kernel = {index: row[0] for index, row in zip(compiled, words[len(stacks) :], strict=True)}
    for index, masked in enumerate(large):
        _mask_large_(masked, by_kernel.get(index))
    for stack, stack_words in zip(stacks, words, strict=False):
        _mask_stack_(stack, stack_words)


def mask_rows_(
    tensors: Sequence[Tensor], keys: Sequence[int], rates: Sequence[float], *, rescale: bool = False
) -> None:
    """Drop whole slices along dim 0 of each tensor in place; in a 1-D tensor, single entries.

    Args:
        tensors: Gradients of any shape and floating dtype, whole or sharded by rows; a 0-d tensor is one row.
        keys: One key per tensor.
        rates: One drop rate per tensor, in [0, 1]. Nothing is launched for a rate of 0.
        rescale: Multiply the kept rows by `1 / (1 - rate)`, so that the expectation is unchanged.
    """
    for whole, key, rate in zip(tensors, keys, rates, strict=True):
        if rate == 0:
            continue
        shard, threshold = shard_of(whole), keep_threshold(rate)
        tensor = shard.local
        if threshold == WORD:
            tensor.mul_(0)
            continue
        rows = tensor.shape[0] if tensor.ndim else 1
        mask = _keep(key, threshold, shard.first_row, rows, tensor.device, tensor.dtype)
        shape = (rows, *[1] * (tensor.ndim - 1)) if tensor.ndim else ()
        _multiply_(tensor, mask.view(shape), 1 / (1 - rate) if rescale else 1.0)


def count_kept(numel: int, key: int, rate: float, device: torch.device) -> Tensor:
    """Return how many of `numel` entries a mask keeps, as a 0-d int64 tensor on `device`."""
    if rate == 0:
        return torch.full((), numel, device=device)
    total = torch.zeros((), dtype=torch.int64, device=device)
    for start, count in ranges(0, numel, device):
        total += _keep(key, keep_threshold(rate), start, count, device, torch.bool).sum()
    return total


def _multiply_(tensor: Tensor, mask: Tensor, factor: float) -> None:
    tensor.mul_(mask)
    if factor != 1:
        tensor.mul_(factor)


def _keep(key: int, threshold: int, start: int, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a flat mask of zeros and ones in the dtype of the gradient, which multiplies fastest."""
    mask = torch.empty(count, dtype=dtype, device=device)
    if threshold == WORD:  # one more than int32 can hold: drop everything
        return mask.zero_()
    for begin, length in ranges(start, count, device):
        hashes = hash_entries(key, begin, length, device)
        torch.ge(hashes, threshold - WORD // 2, out=mask[begin - start : begin - start + length])
    return mask


# ---------------------------------------------------------------- four ways to mask a tensor
@dataclass(frozen=True)
class _Masked:
    """A tensor to mask.

    Args:
        tensor: The rows that this process holds.
        start: Index of its first entry.
        key: 64-bit key.
        threshold: The smallest hash that is kept, below 2^32.
        factor: The factor of the kept entries.
    """

    tensor: Tensor
    start: int
    key: int
    threshold: int
    factor: float


def _mask_large_(masked: _Masked, words: Tensor | None) -> None:
    """Mask one tensor, through the compiled kernel if words for it are given."""
    tensor, begin = masked.tensor, masked.start
    left = None if words is None else fused_mask_(tensor, begin, words, masked.factor)
    fits = begin + tensor.numel() < WORD
    if left is None and fits and (rows := _scattered_rows(tensor)) is not None:
        _mask_rows_of_entries_(masked, rows)
        return
    left = [(begin, tensor)] if left is None else left
    size = min(block_size(tensor.device), max(rest.numel() for _, rest in left))
    work = torch.empty((2, size), dtype=torch.int32, device=tensor.device)
    for first, rest in left:
        for start, piece in pieces(rest, first):
            _mask_piece_(piece, start, masked, work)


def _mask_piece_(piece: Tensor, start: int, masked: _Masked, work: Tensor) -> None:
    """Mask up to a block of entries."""
    hashes = hash_entries(masked.key, start, piece.numel(), piece.device, work)
    threshold = masked.threshold - WORD // 2
    if piece.dtype == torch.float32:  # the bits of the factor times 0 or 1, in half the time of a mask of floats
        kept = torch.ge(hashes, threshold, out=hashes).mul_(_bits(masked.factor)).view(torch.float32)
        piece.mul_(kept.view(piece.shape))
    else:
        mask = torch.ge(hashes, threshold, out=torch.empty_like(hashes, dtype=piece.dtype))
        _multiply_(piece, mask.view(piece.shape), masked.factor)


def _bits(factor: float) -> int:
    """Return the int32 that has the bits of a float32."""
    bits: int = unpack("<i", pack("<f", factor))[0]
    return bits


def _is_small(masked: _Masked) -> bool:
    count = masked.tensor.numel()
    return count <= _SMALL and masked.start % WORD + count <= WORD


def _stacks(small: Sequence[_Masked]) -> Iterator[list[_Masked]]:
    """Group tensors of similar size, as many as fit in one block."""
    groups: dict[tuple[torch.device, torch.dtype, int], list[_Masked]] = {}
    for masked in small:
        size = max(masked.tensor.numel() - 1, 0).bit_length()  # up to twice the smallest
        groups.setdefault((masked.tensor.device, masked.tensor.dtype, size), []).append(masked)
    for (device, _, size), group in groups.items():
        together = max(1, block_size(device) >> size)
        for first in range(0, len(group), together):
            yield group[first : first + together]


def _is_folded(stack: Sequence[_Masked]) -> bool:
    return not any(masked.start for masked in stack)


def _stack_words(stack: Sequence[_Masked]) -> list[list[int]]:
    folded = _is_folded(stack)
    return [entry_words(masked.key, masked.start, masked.threshold, folded=folded) for masked in stack]


def _mask_stack_(stack: Sequence[_Masked], words: Tensor) -> None:
    tensors = [masked.tensor for masked in stack]
    hashes = hash_stack(words, max(tensor.numel() for tensor in tensors), folded=_is_folded(stack))
    masks = torch.empty(hashes.shape, dtype=tensors[0].dtype, device=words.device)
    torch.ge(hashes, words[:, 3:], out=masks)
    views = [mask[: tensor.numel()].view(tensor.shape) for mask, tensor in zip(masks.unbind(), tensors, strict=True)]
    multiply_(tensors, views)
    for masked in stack:
        if masked.factor != 1:
            masked.tensor.mul_(masked.factor)


def _scattered_rows(tensor: Tensor) -> Tensor | None:
    """Return the rows that are not all zeros if there are few, else `None`; only on the CPU, where reading is free.

    A mask does not change a row of zeros. Rows are recognised by their bytes, so that no square underflows.
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


def _mask_rows_of_entries_(masked: _Masked, rows: Tensor) -> None:
    """Drop single entries of some rows of a tensor."""
    matrix = masked.tensor.view(masked.tensor.shape[0], -1)
    width, device = matrix.shape[1], matrix.device
    threshold = masked.threshold - WORD // 2
    columns = torch.arange(width, dtype=torch.int32, device=device) + signed(masked.start)
    for some in torch.split(rows, max(1, block_size(device) // width)):
        indices = some.to(torch.int32).view(-1, 1) * width + columns  # modulo 2^32, as the hash expects them
        entries = matrix.index_select(0, some)
        mask = torch.ge(hash_indices(masked.key, indices), threshold, out=torch.empty_like(entries))
        _multiply_(entries, mask, masked.factor)
        matrix.index_copy_(0, some, entries)
