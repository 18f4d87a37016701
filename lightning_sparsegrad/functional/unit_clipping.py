"""Clipping of units, the rows of a weight that each compute one output, to a share of their own norms."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_sparsegrad.functional._blocks import block_size
from lightning_sparsegrad.functional.sharding import Group, reduce_norms, shard_of

SMALLEST_NORM = 1e-6  # the smallest divisor in the authors' code, in true gradient units
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
    held = [_Held.of(gradient, weight, dim) for gradient, weight, dim in zip(gradients, weights, dims, strict=True)]
    norms = [_unit_norms(pair.gradient, pair.dim) for pair in held]
    bounds = [_unit_norms(pair.weight, pair.dim) for pair in held]
    _add_up(norms, bounds, [pair.group if pair.is_split else None for pair in held])
    sizes = [len(unit_factors) for unit_factors in norms]
    norm, bound = _joined(norms), _joined(bounds)
    if loss_scale is not None:
        norm = norm / loss_scale.to(norm)
    bound = clipping * bound.clamp(min=eps)
    flat = torch.where(norm < bound, 1.0, bound / norm.clamp(min=SMALLEST_NORM))
    factors = torch.split(flat, sizes)
    for pair, unit_factors in zip(held, factors, strict=True):
        count = int((~(unit_factors >= 1)).sum()) if pair.gradient.is_cpu else None  # reading is free there
        if count != 0:
            _scale_(pair.gradient, unit_factors, pair.dim, few=count is not None and count * _FEW <= len(unit_factors))
    return _of_all_processes(held, factors)


@dataclass(frozen=True)
class _Held:
    """The rows of a gradient and its weights that this process holds.

    Args:
        gradient: The rows of the gradient.
        weight: The rows of the weights.
        dim: The dimension along which the units lie; `None` if the tensor is one unit.
        units: Number of units over all processes.
        first: Index of the first unit that this process holds.
        group: The processes over which the tensors are sharded.
    """

    gradient: Tensor
    weight: Tensor
    dim: int | None
    units: int
    first: int
    group: Group | None

    @staticmethod
    def of(gradient: Tensor, weight: Tensor, dim: int) -> "_Held":
        is_whole = sum(size > 1 for size in gradient.shape) <= 1 or not gradient.numel()
        units, shard = 1 if is_whole else gradient.shape[dim], shard_of(gradient)
        return _Held(
            shard.local, shard_of(weight).local, None if is_whole else dim, units, shard.first_row, shard.group
        )

    @property
    def is_split(self) -> bool:
        """Whether other processes hold entries of the same units."""
        return self.group is not None and self.dim != 0


def _unit_norms(tensor: Tensor, dim: int | None) -> Tensor:
    """Return the norms of the units of a tensor, 1-D: float64 if the tensor is, else float32."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    others = [other for other in range(tensor.ndim) if other != dim]
    if not dim:
        norms: Tensor = torch.linalg.vector_norm(tensor, dim=None if dim is None else others, dtype=dtype)
        return norms.view(-1)
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


def _scale_(tensor: Tensor, factors: Tensor, dim: int | None, *, few: bool = False) -> None:
    """Multiply the units of a tensor by their factors; with `few`, pick out the rows whose factor is not 1."""
    factors = factors.to(tensor.device, torch.promote_types(tensor.dtype, torch.float32))
    shape = [-1 if other == dim else 1 for other in range(tensor.ndim)]
    if few and dim == 0:
        rows = (~(factors >= 1)).nonzero().flatten()
        some = tensor.index_select(0, rows) * factors[rows].view(shape)
        tensor.index_copy_(0, rows, some.to(tensor.dtype))
    else:
        tensor.mul_(factors.view(shape))


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
