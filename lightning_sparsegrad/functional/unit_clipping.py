"""Clipping of units, the rows of a weight that each compute one output, to a share of their own norms."""

from collections.abc import Hashable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_sparsegrad.functional._blocks import block_size
from lightning_sparsegrad.functional._norms import blockwise_norms
from lightning_sparsegrad.functional._torch import multiply_
from lightning_sparsegrad.functional.sharding import Group, is_spread, reduce_norms, shard_of

SMALLEST_NORM = 1e-6  # the smallest divisor in the authors' code, in true gradient units
_SMALL = 1 << 12  # entries, up to which matrices are joined
_FEW = 4  # rows are picked out if at most one in four is clipped


def clip_units_(
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    clipping: float,
    *,
    dims: Sequence[int],
    eps: float = 1e-3,
    loss_scale: Tensor | None = None,
) -> list[Tensor]:
    r"""Scale each unit of each gradient in place to a share of the norm of its weights, if it exceeds that share.

    .. math:: g_u \leftarrow g_u \cdot \frac{\tau_u}{\max(\lVert g_u \rVert, 10^{-6})}
        \quad \text{if } \lVert g_u \rVert \ge \tau_u = \text{clipping} \cdot \max(\lVert W_u \rVert, \text{eps})

    A unit is a slice along the output dimension of a tensor, all inputs of one output; a tensor with at most one
    dimension longer than 1 is one unit, as in the authors' code. Norms are accumulated in float32 or wider. An infinite
    or undefined entry becomes NaN, so that a gradient scaler sees it, and the rest of its unit becomes NaN or zero; a
    unit of finite entries whose norm is infinite becomes zero. A unit within its bound keeps its bits.

    Args:
        gradients: Gradients of any shape and floating dtype, whole or sharded by rows.
        weights: The tensors whose gradients they are, of the same shapes and sharded alike.
        clipping: Largest norm of a gradient as a share of that of its weights, positive.
        dims: The output dimension of each tensor; ignored for a tensor that is one unit.
        eps: Lower bound on the norm of weights, positive, so that units whose weights are zero can train.
        loss_scale: 0-d tensor by which the gradients are multiplied, or `None`.

    Returns:
        For each tensor the factors of its units, a 1-D tensor in float32 or wider, the same on all processes.
    """
    held = [_Held.of(index, *each) for index, each in enumerate(zip(gradients, weights, dims, strict=True))]
    batches = _batches(held)
    norms = [_norms_of(batch, [pair.gradient for pair in batch]) for batch in batches]
    bounds = [_norms_of(batch, [pair.weight for pair in batch]) for batch in batches]
    _add_up(norms, bounds, [batch[0].group if batch[0].is_split else None for batch in batches])
    norm, bound = _joined(norms), _joined(bounds)
    if loss_scale is not None:
        norm = norm / loss_scale.to(norm)
    bound = clipping * bound.clamp(min=eps)
    flat = torch.where(norm < bound, 1.0, bound / norm.clamp(min=SMALLEST_NORM))
    pairs = [pair for batch in batches for pair in batch]
    separate = torch.split(flat, [pair.size for pair in pairs])
    _scale_(pairs, separate, _numbers_over(flat, pairs))
    by_position = {pair.position: factors for pair, factors in zip(pairs, separate, strict=True)}
    return _of_all_processes(held, [by_position[index] for index in range(len(held))])


class _Held(NamedTuple):
    """The rows of a gradient and its weights that this process holds.

    Args:
        position: Index of the gradient among those given.
        gradient: The rows of the gradient.
        weight: The rows of the weights.
        dim: The dimension along which the units lie; `None` if the tensor is one unit.
        units: Number of units over all processes.
        first: Index of the first unit that this process holds.
        group: The processes over which the tensors are sharded.
    """

    position: int
    gradient: Tensor
    weight: Tensor
    dim: int | None
    units: int
    first: int = 0
    group: Group | None = None

    @staticmethod
    def of(position: int, gradient: Tensor, weight: Tensor, dim: int) -> "_Held":
        shape = gradient.shape
        is_whole = shape.count(1) >= len(shape) - 1 or 0 in shape
        unit_dim, units = (None, 1) if is_whole else (dim, shape[dim])
        if type(gradient) is Tensor:
            return _Held(position, gradient, shard_of(weight).local if is_spread(weight) else weight, unit_dim, units)
        shard = shard_of(gradient)
        return _Held(position, shard.local, shard_of(weight).local, unit_dim, units, shard.first_row, shard.group)

    @property
    def size(self) -> int:
        """Number of units that this process holds."""
        return 1 if self.dim is None else self.gradient.shape[self.dim]

    @property
    def is_split(self) -> bool:
        """Whether other processes hold entries of the same units."""
        return self.group is not None and self.dim != 0


def _batches(held: Sequence[_Held]) -> list[list[_Held]]:
    """Return tensors whose norms are computed in one call together: single units, and small matrices as wide."""
    batches: dict[Hashable, list[_Held]] = {}
    for pair in held:
        gradient = pair.gradient
        key: Hashable = pair.position
        if pair.group is None and pair.dim is None:
            key = gradient.device, gradient.dtype
        elif pair.group is None and pair.dim == 0 and gradient.is_cpu and gradient.numel() <= _SMALL:
            key = gradient.dtype, gradient.shape[1:]
        batches.setdefault(key, []).append(pair)
    return list(batches.values())


def _norms_of(batch: Sequence[_Held], tensors: Sequence[Tensor]) -> Tensor:
    """Return the norms of the units of tensors, 1-D: float64 if the first tensor is, else float32.

    Args:
        batch: Whose tensors they are.
        tensors: Gradients or weights.
    """
    dim, dtype = batch[0].dim, torch.promote_types(tensors[0].dtype, torch.float32)
    if dim is None:
        return torch.stack(list(blockwise_norms(tensors, dtype=dtype)))
    tensor = torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
    others = [other for other in range(tensor.ndim) if other != dim]
    if dim == 0:
        norms: Tensor = torch.linalg.vector_norm(tensor, dim=others, dtype=dtype)
        return norms
    squares = torch.zeros(tensor.shape[dim], dtype=dtype, device=tensor.device)
    for rows in torch.split(tensor, max(1, block_size(tensor.device) // max(1, tensor[:1].numel()))):
        squares += rows.to(dtype).square().sum(others)  # on the CPU, ten times as fast as `vector_norm` of columns
    return squares.sqrt()


def _add_up(norms: list[Tensor], bounds: list[Tensor], groups: Sequence[Group | None]) -> None:
    """Replace the norms of the rows that this process holds by those of whole units: one collective per group."""
    for group in dict.fromkeys(group for group in groups if group is not None):
        members = [index for index, other in enumerate(groups) if other is group]
        held = [of_all[index] for of_all in (norms, bounds) for index in members]
        whole = torch.split(reduce_norms(_joined(held).double(), group), [len(tensor) for tensor in held])
        for offset, index in enumerate(members):
            norms[index] = whole[offset].to(norms[index].dtype)
            bounds[index] = whole[len(members) + offset].to(bounds[index].dtype)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors on the device of the first; float64 if any is, else float32."""
    wide = torch.float64 if torch.float64 in {tensor.dtype for tensor in tensors} else torch.float32
    return torch.cat([tensor.to(tensors[0].device, wide) for tensor in tensors])


def _numbers_over(factors: Tensor, pairs: Sequence[_Held]) -> list[int | None]:
    """Return how many units of each tensor are beyond their bounds; `None` on accelerators, which are not read."""
    if not factors.is_cpu:
        return [None] * len(pairs)
    over = (~(factors >= 1)).cumsum(0)
    ends = torch.tensor([0, *accumulate(pair.size for pair in pairs)], device="cpu")
    return torch.cat([over.new_zeros(1), over])[ends].diff().tolist()


def _scale_(pairs: Sequence[_Held], factors: Sequence[Tensor], numbers: Sequence[int | None]) -> None:
    """Multiply the units of gradients by their factors; pick out the rows whose factor is not 1 if they are few."""
    tensors, scales = [], []
    for pair, factor, number in zip(pairs, factors, numbers, strict=True):
        tensor, dim = pair.gradient, pair.dim
        if number == 0:
            continue
        wide = torch.promote_types(tensor.dtype, torch.float32)
        if factor.dtype != wide or factor.device != tensor.device:
            factor = factor.to(tensor.device, wide)
        shape = [-1 if other == dim else 1 for other in range(tensor.ndim)]
        if number is not None and dim == 0 and number * _FEW <= len(factor):
            rows = (~(factor >= 1)).nonzero().flatten()
            some = tensor.index_select(0, rows) * factor[rows].view(shape)
            tensor.index_copy_(0, rows, some.to(tensor.dtype))
        else:
            tensors.append(tensor)
            scales.append(factor.view(shape))
    if tensors:
        multiply_(tensors, scales)


def _of_all_processes(held: Sequence[_Held], factors: Sequence[Tensor]) -> list[Tensor]:
    """Return the factors of all units from those of the units that each process holds."""
    whole = list(factors)
    groups = [None if pair.is_split else pair.group for pair in held]
    for group in dict.fromkeys(group for group in groups if group is not None):
        members = [index for index, other in enumerate(groups) if other is group]
        padded = [
            pad(whole[index], (held[index].first, held[index].units - held[index].first - len(whole[index])))
            for index in members
        ]
        together = torch.cat(padded)
        torch.distributed.all_reduce(together, group=group)
        for index, unit_factors in zip(
            members, torch.split(together, [len(unit_factors) for unit_factors in padded]), strict=True
        ):
            whole[index] = unit_factors
    return whole
