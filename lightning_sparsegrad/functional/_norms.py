"""Euclidean norms of tensors, summed in blocks on CPUs: more exact than torch's, and on all threads.

On a CPU torch sums the squares of a float32 tensor one after another on one thread, and is off by 0.05% at 12 million
entries. Here each block of 1024 entries has a norm of its own, and these are combined in float64. Blocks are the same
for any number of threads, and so are the bits. On accelerators torch sums in blocks itself.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import pieces
from lightning_sparsegrad.functional._torch import norms_of

_BLOCK = 1024  # entries: float32 sums of so few squares are exact to 3e-7, also beside an outlier
_ONE_BLOCK = 2 * _BLOCK  # tensors up to this size are one block, which costs one call


def blockwise_norms(tensors: Sequence[Tensor], *, dtype: torch.dtype) -> list[Tensor]:
    """Return the norm of each tensor: 0-d, on its device, in `dtype`, or in float64 for large tensors on a CPU.

    Args:
        tensors: Tensors of any shape and layout.
        dtype: float64 if any tensor is, else float32.
    """
    blocks = [_norms_of_blocks(tensor, dtype) if _is_cut(tensor) else None for tensor in tensors]
    whole = [tensor for tensor, cut in zip(tensors, blocks, strict=True) if cut is None]
    cuts = [cut for cut in blocks if cut is not None]
    of_whole = iter(norms_of(whole, dtype=dtype) if whole else ())
    of_cuts = iter(norms_of(cuts, dtype=torch.float64) if cuts else ())
    return [next(of_whole if cut is None else of_cuts) for cut in blocks]


def _is_cut(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.numel() > _ONE_BLOCK and tensor.dtype != torch.float64


def _norms_of_blocks(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the norms of the blocks of a tensor in row-major order, 1-D."""
    norms = list(_norms_of_rows(tensor, dtype))
    return norms[0] if len(norms) == 1 else torch.cat(norms)


def _norms_of_rows(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    views = (tensor,) if tensor.dtype == dtype and tensor.is_contiguous() else (view for _, view in pieces(tensor))
    for view in views:
        flat = view.to(dtype).contiguous().view(-1)  # a copy, if it is one, stays in the cache
        tail = flat.numel() % _BLOCK
        rows = flat[:-tail] if tail else flat
        if rows.numel():
            yield torch.linalg.vector_norm(rows.view(-1, _BLOCK), dim=1)
        if tail:
            yield torch.linalg.vector_norm(flat[-tail:]).view(1)
