"""Bernoulli masks on gradients: a hash of its index decides whether an entry is kept, and a product drops it.

An entry is dropped by multiplying by zero, so that an infinite or undefined gradient stays visible (as NaN) to a
gradient scaler. There are four ways to mask a tensor, with the same bits: many small tensors share one hash; in a
matrix of mostly zero rows, such as the gradient of a word embedding, only the other rows are masked; a large tensor
goes through the compiled kernel of `_fused`, or block by block through the cache.

In a `DTensor` that is sharded by rows, each process masks the rows that it holds, by the index in the whole tensor: the
mask is the same for any number of processes.
"""

from collections.abc import Sequence
from math import prod
from struct import pack, unpack

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size, pieces, ranges
from lightning_sparsegrad.functional._fused import fused_mask_, fused_words
from lightning_sparsegrad.functional._plans import Draws, Masked, Stack, draw, plan_masks
from lightning_sparsegrad.functional._torch import multiply_
from lightning_sparsegrad.functional._triton import lists_of, mask_list_
from lightning_sparsegrad.functional._words import cpu_words, send_rows
from lightning_sparsegrad.functional.hashing import (
    WORD,
    hash_entries,
    hash_indices,
    hash_stack,
    keep_threshold,
    signed,
)

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
        fused: Use a compiled kernel, with the same bits: for all tensors at once on an accelerator, else for large
            ones. It is compiled at its first use.
    """
    masks = draw(tensors, keys, rates, rescale=rescale)
    if fused:
        masks = _mask_lists_(masks)
    plan = plan_masks(masks.kinds, tuple(masks.starts), by_row=False)
    large = {index: masks.one(index) for index in plan.large}
    rows = {}
    for index, masked in large.items() if fused else ():
        row = fused_words(masked.tensor, masked.start, masked.key, masked.threshold)
        if row is not None:
            rows[index] = row
    blocks = [(stack.device, masks.words(stack)) for stack in plan.stacks]
    compiled = [(large[index].tensor.device, cpu_words([[*row, 0]])) for index, row in rows.items()]
    words = send_rows(blocks + compiled)
    by_kernel = {index: row[0, :4] for index, row in zip(rows, words[len(blocks) :], strict=True)}
    for index, masked in large.items():
        _mask_large_(masked, by_kernel.get(index))
    for stack, own in zip(plan.stacks, words, strict=False):
        _mask_stack_(masks, stack, own)


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
    masks = draw(tensors, keys, rates, rescale=rescale, by_row=True)
    plan = plan_masks(masks.kinds, tuple(masks.starts), by_row=True)
    words = send_rows([(stack.device, masks.words(stack)) for stack in plan.stacks])
    for stack, own in zip(plan.stacks, words, strict=True):
        _mask_stack_(masks, stack, own)
    for masked in map(masks.one, plan.large):
        tensor = masked.tensor
        mask = _keep(masked.key, masked.threshold, masked.start, tensor.shape[0], tensor.device, tensor.dtype)
        _multiply_(tensor, mask.view(-1, *[1] * (tensor.ndim - 1)), masked.factor)


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
def _mask_lists_(draws: Draws) -> Draws:
    """Mask what the kernel over lists can reach, and return the rest."""
    lists = lists_of(draws.tensors)
    masked = {index for some in lists if mask_list_(*draws.columns(some)) for index in some}
    if not masked:
        return draws
    return Draws(*draws.columns([index for index in range(len(draws.tensors)) if index not in masked]))


def _mask_large_(masked: Masked, words: Tensor | None) -> None:
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


def _mask_piece_(piece: Tensor, start: int, masked: Masked, work: Tensor) -> None:
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


def _mask_stack_(draws: Draws, stack: Stack, words: Tensor) -> None:
    hashes = hash_stack(words[:, :4], stack.count, folded=stack.folded)
    exact = stack.dtype == torch.float32
    if exact:
        masks = torch.ge(hashes, words[:, 3:4], out=hashes).mul_(words[:, 4:]).view(torch.float32)
    else:
        masks = torch.ge(hashes, words[:, 3:4], out=torch.empty_like(hashes, dtype=stack.dtype))
    views: list[Tensor] = []
    for many, units, shape in stack.runs:
        same = masks[len(views) : len(views) + many, :units]
        views += same.view(many, *shape).unbind()
    tensors = [draws.tensors[index] for index in stack.indices]
    multiply_(tensors, views)
    for index in stack.indices if not exact else ():
        if draws.factors[index] != 1:
            draws.tensors[index].mul_(draws.factors[index])


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


def _mask_rows_of_entries_(masked: Masked, rows: Tensor) -> None:
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
