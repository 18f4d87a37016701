"""Norms of components and clips by norm, on lists of tensors; nothing here synchronises with an accelerator.

If tensors are sharded over processes, each process passes the rows that it holds, and one collective reduces all norms.
"""

from collections.abc import Iterator, Sequence
from itertools import compress
from math import inf, isfinite
from typing import Literal

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size, pieces
from lightning_sparsegrad.functional._norms import blockwise_norms
from lightning_sparsegrad.functional._torch import copy_, multiply_, norms_of
from lightning_sparsegrad.functional._triton import lists_of, scale_list_
from lightning_sparsegrad.functional._words import send
from lightning_sparsegrad.functional.sharding import Group, group_of, norms_over, shard_of

NormKind = Literal["blockwise", "torch"]

_SMALL = 1 << 12  # entries, up to which tensors are joined to be changed in one call
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
        norms = [each.to(tensors[0].device) for each in norms]
    flat = torch.stack(list(norms))
    if groups is not None and list(groups).count(None) < len(groups):
        return norms_over(flat, sizes, groups, norm_type=norm_type)
    if len(sizes) == len(tensors):
        return flat
    if norm == "blockwise" and flat.is_cpu:
        flat = flat.double()  # thousands of norms would add up inexactly in float32
    if len(sizes) == 1:  # as `clip_grad_norm_` does: on accelerators, foreach adds up in another order
        total: Tensor = torch.linalg.vector_norm(flat, norm_type)
        return total.to(dtype).view(1)
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
    on_cpu = all(tensor.is_cpu for tensor in tensors)
    above = [not factor >= 1.0 for factor in factors.tolist()] if on_cpu else []  # reading is free there
    if on_cpu and not any(above):
        return
    each = factors.unbind()  # as tensors: a list of numbers would be rounded to half precision first
    scales = [factor for factor, size in zip(each, sizes, strict=True) for _ in range(size)]
    if on_cpu:  # components within their threshold need not be changed
        over = [is_above for is_above, size in zip(above, sizes, strict=True) for _ in range(size)]
        tensors, scales = list(compress(tensors, over)), list(compress(scales, over))
    else:
        tensors, scales = _scale_lists_(tensors, scales)
    if len(sizes) == 1:
        _scale_together_(tensors, factors[0])
    elif tensors:
        multiply_(tensors[::-1], scales[::-1])  # the last ones may still be in a cache


def _scale_lists_(tensors: Sequence[Tensor], scales: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Multiply what a kernel over lists can reach, in one launch for each device and dtype, and return the rest.

    Without the kernel torch launches once for each tensor, and rounds the factors of half-precision gradients.
    """
    scales = [scale.to(tensor.device) for tensor, scale in zip(tensors, scales, strict=True)]
    done = set()
    for some in lists_of(tensors):
        if scale_list_([tensors[index] for index in some], torch.stack([scales[index] for index in some])):
            done.update(some)
    left = [index for index in range(len(tensors)) if index not in done]
    return [tensors[index] for index in left], [scales[index] for index in left]


def clip_values_(tensors: Sequence[Tensor], max_value: float, *, loss_scale: Tensor | None = None) -> Tensor:
    """Clamp every entry to [-max_value, max_value] in place; an infinite or undefined entry becomes NaN.

    Args:
        tensors: Gradients of any shape, whole or sharded by rows.
        max_value: Bound in true gradient units, positive.
        loss_scale: 0-d tensor by which the gradients are multiplied, or `None`.

    Returns:
        The number of entries beyond the bound or not finite, as a 0-d int64 tensor on the device of the first tensor.
    """
    groups = dict.fromkeys(group_of(tensor) for tensor in tensors)
    counts = {group: torch.zeros((), dtype=torch.float64, device=tensors[0].device) for group in groups}
    for group, views in _together(tensors):
        piece = torch.cat(views) if len(views) > 1 else views[0]
        bound = torch.full((), max_value, dtype=torch.promote_types(piece.dtype, torch.float32), device=piece.device)
        if loss_scale is not None:
            bound = bound * loss_scale.to(bound)
        clipped = _bound_(piece, bound)
        if clipped is not None:
            counts[group] += clipped.to(counts[group].device)
            if len(views) > 1:
                copy_(views, list(torch.split(piece, [view.numel() for view in views])))
    for group, clipped in counts.items():
        if group is not None:
            torch.distributed.all_reduce(clipped, group=group)
    return torch.stack(list(counts.values())).sum().long()


def _together(tensors: Sequence[Tensor]) -> Iterator[tuple[Group | None, list[Tensor]]]:
    """Yield lists of views of one dtype, about a block each, with the processes over which they are sharded.

    On a CPU, small tensors are in one list: calls would take longer than the work.
    """
    small: dict[tuple[Group | None, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        local, group = (tensor, None) if type(tensor) is Tensor else ((shard := shard_of(tensor)).local, shard.group)
        if 0 < local.numel() <= _SMALL and local.is_cpu and local.is_contiguous():
            small.setdefault((group, local.dtype), []).append(local.view(-1))
        else:
            yield from ((group, [piece]) for _, piece in pieces(local))
    for (group, _), views in small.items():
        number = block_size(views[0].device) // _SMALL
        yield from ((group, views[first : first + number]) for first in range(0, len(views), number))


def _bound_(piece: Tensor, bound: Tensor) -> Tensor | None:
    """Clamp a tensor in place and return how many entries were beyond the bound or not finite, `None` for 0."""
    is_finite = False
    if piece.is_cpu:  # where reading is free
        low, high = (float(end) for end in piece.aminmax())
        is_finite = isfinite(low) and isfinite(high)
        if is_finite and max(-low, high) <= float(bound):
            return None
    sizes = piece.abs()
    if not is_finite:
        # `clamp` alone would turn an infinite entry into the bound and hide the overflow
        piece.masked_fill_(sizes.isinf(), torch.nan)
        torch.abs(piece, out=sizes)
    inside = torch.le(sizes, bound, out=sizes)  # ones and zeros in the dtype at hand: sums of booleans are slow
    clipped: Tensor = piece.numel() - inside.sum(dtype=torch.float32)
    piece.clamp_(-bound, bound)
    return clipped


def _scale_together_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    for device in {tensor.device for tensor in tensors}:
        # the last ones may still be in a cache
        multiply_([tensor for tensor in reversed(tensors) if tensor.device == device], factor.to(device))
