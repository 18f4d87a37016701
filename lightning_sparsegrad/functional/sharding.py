"""Shards: the consecutive rows of a `DTensor` that one of several processes holds.

`torch.distributed.tensor` is never imported here, so that a program that shards nothing does not load it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import norms_of

Group = Any  # a `torch.distributed.ProcessGroup`, which builds without torch.distributed do not have


@dataclass(frozen=True)
class Shard:
    """The rows of a tensor that this process holds.

    Args:
        local: The rows; they share their memory with the tensor.
        first_row: Index of the first of them in the whole tensor.
        group: The processes over which the tensor is sharded; `None` for one that each process holds whole.
    """

    local: Tensor
    first_row: int = 0
    group: Group | None = None

    @property
    def start(self) -> int:
        """Index of the first entry in the whole tensor, in row-major order."""
        return self.first_row * prod(self.local.shape[1:])


def is_spread(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`."""
    return type(tensor) is not Tensor and hasattr(tensor, "full_tensor")


def shard_of(tensor: Tensor) -> Shard:
    """Return the rows of a tensor that this process holds.

    Args:
        tensor: A whole tensor; or a `DTensor` that is sharded by rows over one dimension of its mesh, as `fully_shard`
            does, and replicated along the others.

    Raises:
        ConfigurationError: If it is sharded in another way, such as the columns of tensor parallelism, or into other
            numbers of rows than `torch.chunk` would give.
    """
    if not is_spread(tensor):
        return Shard(tensor)
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]  # of a DTensor
    axes = [axis for axis, placement in enumerate(placements) if mesh.size(axis) > 1 and not placement.is_replicate()]
    by_rows = all(type(placements[axis]).__name__ == "Shard" and placements[axis].dim == 0 for axis in axes)
    if len(axes) > 1 or not by_rows:
        raise ConfigurationError(
            f"Parameters and gradients should be whole on each device, or sharded by rows over one dimension of the "
            f"device mesh, as `fully_shard` does. Found placements {tuple(placements)} of a tensor of "
            f"shape {tuple(tensor.shape)}; train it with FSDP2 or DDP in place of tensor parallelism."
        )
    local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    if not axes:
        return Shard(local)
    shard_rows = -(-tensor.shape[0] // mesh.size(axes[0]))  # as in `torch.chunk`: the last may be short or empty
    first = min(mesh.get_local_rank(axes[0]) * shard_rows, tensor.shape[0])
    if local.shape[0] != min(shard_rows, tensor.shape[0] - first):
        raise ConfigurationError(
            f"Sharded parameters should be cut into equal numbers of rows, the last ones fewer. Found {local.shape[0]} "
            f"of {tensor.shape[0]} rows on rank {mesh.get_local_rank(axes[0])} of {mesh.size(axes[0])}."
        )
    return Shard(local, first, mesh.get_group(axes[0]))


def group_of(tensor: Tensor) -> Group | None:
    """Return the processes over which a tensor is sharded; `None` if it is whole."""
    return shard_of(tensor).group if is_spread(tensor) else None


def whole_of(local: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor from the rows of it that each process holds, in one collective.

    Args:
        local: The rows that this process holds; may have fewer dimensions than `like`, but as many rows.
        like: A tensor that is sharded as these rows are, or whole.
    """
    if not is_spread(like):
        return local
    shape = torch.Size((like.shape[0], *local.shape[1:]))
    spread = type(like).from_local(  # type: ignore[attr-defined]  # of a DTensor
        local.contiguous(),
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )
    whole: Tensor = spread.full_tensor()
    return whole


def norms_over(
    norms: Tensor, sizes: Sequence[int], groups: Sequence[Group | None], *, norm_type: float = 2.0
) -> Tensor:
    """Return the norm of each component from the norms of the rows that each process holds: one collective per group.

    Args:
        norms: Norms of all tensors, of shape (sum(sizes),), the tensors of one component next to each other.
        sizes: Number of tensors of each component, positive.
        groups: For each tensor the processes over which it is sharded; `None` for one that each process holds whole.
            The same on all processes, even if a process holds no entry of a tensor.
        norm_type: 2.0 or infinity.

    Returns:
        Tensor of shape (len(sizes),), the same on all processes.
    """
    component = [index for index, size in enumerate(sizes) for _ in range(size)]
    wide = norms.double()
    separate, zero = wide.unbind(), wide.new_zeros(())
    totals = []
    for group in dict.fromkeys(groups):
        members = [other is group for other in groups]
        # stacking copies nothing from the host, unlike indexing
        inside = torch.stack([norm if member else zero for norm, member in zip(separate, members, strict=True)])
        total = torch.stack(norms_of(torch.split(inside, list(sizes)), norm_type))
        if group is not None:
            # only components with a member in the group: the norms of others may differ between processes
            shared = sorted({index for index, member in zip(component, members, strict=True) if member})
            norms_of_components = list(total.unbind())
            reduced = reduce_norms(torch.stack([norms_of_components[index] for index in shared]), group, norm_type)
            for index, norm in zip(shared, reduced.unbind(), strict=True):
                norms_of_components[index] = norm
            total = torch.stack(norms_of_components)
        totals.append(total)
    over_all: Tensor = torch.linalg.vector_norm(torch.stack(totals), norm_type, dim=0)
    return over_all.to(norms.dtype)


def reduce_norms(norms: Tensor, group: Group, norm_type: float = 2.0) -> Tensor:
    """Return norms from the norms of the rows that each process of a group holds, in one collective.

    Args:
        norms: The norms on this process, a float64 tensor of the same shape on all processes.
        group: The processes.
        norm_type: 2.0 or infinity.
    """
    if norm_type != inf:
        powers = norms.square()
        torch.distributed.all_reduce(powers, group=group)
        return powers.sqrt()
    # a maximum over processes may ignore NaN, which is therefore reduced separately
    undefined = norms.isnan()
    both = torch.stack([norms.masked_fill(undefined, 0.0), undefined.to(norms)])
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group=group)
    return both[0].masked_fill(both[1] > 0, torch.nan)
