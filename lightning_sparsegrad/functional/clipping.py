"""Norms of components and clips by norm, on lists of tensors; nothing here synchronises with an accelerator.

If tensors are sharded over processes, each process passes the rows that it holds, and one collective reduces all norms.
"""

from collections.abc import Sequence
from math import inf
from typing import Literal

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import pieces
from lightning_sparsegrad.functional._norms import blockwise_norms
from lightning_sparsegrad.functional._torch import multiply_, norms_of
from lightning_sparsegrad.functional._words import send
from lightning_sparsegrad.functional.sharding import Group, norms_over, shard_of

NormKind = Literal["blockwise", "torch"]

EPSILON = 1e-6  # what `torch.nn.utils.clip_grad_norm_` adds to the norm, in true gradient units


def component_norms(
    tensors: Sequence[Tensor],
    sizes: Sequence[int],
    *,
    norm_type: float = 2.0,
    groups: Sequence[Group | None] | None = None,
    norm: NormKind = "blockwise",
) -> Tensor:
    r"""Return the norm of each component, accumulated in float32 or wider.

    Args:
        tensors: Gradients (or slices of them) of any shape, the tensors of one component next to each other.
        sizes: Number of tensors of each component; they sum to `len(tensors)`.
        norm_type: 2.0 or infinity.
        groups: For each tensor the processes over which it is sharded, in which case this one passes the rows that it
            holds, even if there are none; `None` for a tensor that each process holds whole. By default, all are whole.
        norm: `"blockwise"`: within 1e-6 of the float64 norm, on all threads, and the same bits for any number of them.
            `"torch"`: equal to that of `clip_grad_norm_` to the last bit, which on CPUs is off by 0.05% in a float32
            tensor of 12 million entries. On accelerators both are the same.

    Returns:
        Tensor of shape (len(sizes),) on the device of the first tensor: float64 if any gradient is, else float32.
    """
    dtype = torch.float64 if torch.float64 in {tensor.dtype for tensor in tensors} else torch.float32
    if norm_type == inf:  # an empty tensor has no largest entry
        tensors = [tensor if tensor.numel() else tensor.new_zeros(1) for tensor in tensors]
    norms: Sequence[Tensor]
    if norm == "torch" or norm_type == inf:
        norms = norms_of(list(tensors), norm_type, dtype=dtype)  # in fp16 the squares would overflow
    else:
        norms = blockwise_norms(tensors, dtype=dtype)
    if len({each.device for each in norms}) > 1:
        norms = [each.to(tensors[0].device, dtype) for each in norms]
    flat = torch.stack(list(norms))  # in float64, if any norm is
    if groups is not None and any(group is not None for group in groups):
        return norms_over(flat, sizes, groups, norm_type=norm_type).to(dtype)
    if len(sizes) == len(tensors):
        return flat.to(dtype)
    if norm == "blockwise" and flat.is_cpu:
        flat = flat.double()  # thousands of norms would add up inexactly in float32
    return torch.stack(norms_of(torch.split(flat, list(sizes)), norm_type)).to(dtype)


def tensor_norms(tensors: Sequence[Tensor], *, norm_type: float = 2.0) -> Tensor:
    """Return the norm of each tensor, whole or sharded by rows, as `component_norms` does."""
    shards = [shard_of(tensor) for tensor in tensors]
    groups = [shard.group for shard in shards]
    return component_norms([shard.local for shard in shards], [1] * len(shards), norm_type=norm_type, groups=groups)


def clip_components_(
    tensors: Sequence[Tensor],
    sizes: Sequence[int],
    max_norms: Sequence[float],
    *,
    norm_type: float = 2.0,
    loss_scale: Tensor | None = None,
    groups: Sequence[Group | None] | None = None,
    norm: NormKind = "blockwise",
) -> tuple[Tensor, Tensor]:
    r"""Scale each component in place so that its norm is at most its threshold.

    .. math:: g_c \leftarrow g_c \cdot \min\left(1, \frac{\text{max\_norm}_c}{\lVert g_c \rVert + 10^{-6}}\right)

    A component whose norm is infinite or undefined becomes NaN where torch's own `clip_grad_norm_` makes it NaN, so
    that a gradient scaler sees it.

    Args:
        tensors: Gradients, the tensors of one component next to each other.
        sizes: Number of tensors of each component.
        max_norms: One threshold per component, positive, in true gradient units.
        norm_type: 2.0 or infinity.
        loss_scale: 0-d tensor by which the gradients are multiplied, or `None`.
        groups: The processes over which each tensor is sharded, see `component_norms`.
        norm: How norms are computed, see `component_norms`.

    Returns:
        The norms before, in true units, and the factors, both of shape (len(sizes),).
    """
    norms = component_norms(tensors, sizes, norm_type=norm_type, groups=groups, norm=norm)
    if loss_scale is not None:
        norms = norms / loss_scale.to(norms)
    factors = clip_factors(norms, bounds_on(norms, max_norms))
    scale_components_(tensors, sizes, factors)
    return norms, factors


def bounds_on(norms: Tensor, max_norms: Sequence[float]) -> Tensor | float:
    """Return thresholds as a tensor beside norms, or as one number if they are all the same."""
    if any(max_norm != max_norms[0] for max_norm in max_norms):
        return send(max_norms, norms.dtype, norms.device)
    return max_norms[0]


def clip_factors(norms: Tensor, bounds: Tensor | float) -> Tensor:
    """Return what components of some norms are multiplied by, rounded as in torch: equal to the last bit."""
    return ((norms + EPSILON).reciprocal() * bounds).clamp(max=1.0)


def scale_components_(tensors: Sequence[Tensor], sizes: Sequence[int], factors: Tensor) -> None:
    """Multiply each component in place by its factor.

    Args:
        tensors: Gradients, the tensors of one component next to each other.
        sizes: Number of tensors of each component.
        factors: One factor per component, of shape (len(sizes),), in float32 or wider.
    """
    if all(tensor.is_cpu for tensor in tensors):
        # reading is free here, and components within their threshold need not be changed
        over = [not factor >= 1.0 for factor in factors.tolist()]
        if not any(over):
            return
    elif len(sizes) == 1:
        _scale_together_(tensors, factors[0])
        return
    else:
        over = [True] * len(sizes)
    factor_tensors = factors.unbind()  # as tensors: a list of numbers would be rounded to half precision first
    groups = (component for component, size in enumerate(sizes) for _ in range(size))
    scaled = [
        (tensor, factor_tensors[c].to(tensor.device)) for tensor, c in zip(tensors, groups, strict=True) if over[c]
    ]
    multiply_([tensor for tensor, _ in scaled], [factor for _, factor in scaled])


def clip_values_(tensors: Sequence[Tensor], max_value: float, *, loss_scale: Tensor | None = None) -> Tensor:
    """Clamp every entry to [-max_value, max_value] in place; an infinite or undefined entry becomes NaN.

    Args:
        tensors: Gradients of any shape, whole or sharded by rows.
        max_value: Bound in true gradient units, positive.
        loss_scale: 0-d tensor by which the gradients are multiplied, or `None`.

    Returns:
        The number of entries beyond the bound or not finite, as a 0-d int64 tensor on the device of the first tensor.
    """
    shards = [shard_of(tensor) for tensor in tensors]
    counts = {  # by the group of processes that sum their counts
        group: torch.zeros((), dtype=torch.float64, device=tensors[0].device)
        for group in dict.fromkeys(shard.group for shard in shards)
    }
    for shard in shards:
        tensor, clipped = shard.local, counts[shard.group]
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        bound = torch.full((), max_value, dtype=dtype, device=tensor.device)
        if loss_scale is not None:
            bound = bound * loss_scale.to(bound)
        for _, piece in pieces(tensor):
            sizes = piece.abs()
            if piece.is_cpu:  # where reading is free
                largest = float(sizes.amax())
                if largest <= float(bound) and largest < inf:
                    continue
            if not (piece.is_cpu and largest < inf):
                # `clamp` alone would turn an infinite entry into the bound and hide the overflow
                piece.masked_fill_(sizes.isinf(), torch.nan)
                torch.abs(piece, out=sizes)
            inside = torch.le(sizes, bound, out=sizes)  # ones and zeros in the dtype at hand: sums of booleans are slow
            clipped += piece.numel() - inside.sum(dtype=torch.float32).to(clipped.device)
            piece.clamp_(-bound, bound)
    for group, clipped in counts.items():
        if group is not None:
            torch.distributed.all_reduce(clipped, group=group)
    return torch.stack(list(counts.values())).sum().long()


def _scale_together_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    for device in {tensor.device for tensor in tensors}:
        multiply_([tensor for tensor in tensors if tensor.device == device], factor.to(device))
