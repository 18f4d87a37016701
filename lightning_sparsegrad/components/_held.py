"""The tensors of components that this process holds, next to each other as norm kernels take them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_sparsegrad.components.partition import Component
from lightning_sparsegrad.functional.sharding import Group, group_of


@dataclass(frozen=True)
class Held:
    """The gradients of components, without the components that have none.

    Args:
        tensors: Gradients and slices of them, those of one component next to each other.
        groups: For each tensor the processes over which it is sharded; `None` for one that each process holds whole.
        sizes: Number of tensors of each component, positive.
        indices: The indices of these components, ascending.
    """

    tensors: list[Tensor]
    groups: list[Group | None]
    sizes: list[int]
    indices: list[int]

    @staticmethod
    def of(components: Sequence[Component], gradients: Mapping[str, Tensor]) -> "Held":
        """Gather the gradients of components."""
        held = Held([], [], [], [])
        for index, component in enumerate(components):
            size = 0
            for part in component.parts:
                gradient = gradients.get(part.parameter)
                if gradient is not None:
                    pieces, group = part.held(gradient), group_of(gradient)
                    held.tensors.extend(pieces)
                    held.groups.extend([group] * len(pieces))
                    size += len(pieces)
            if size:
                held.sizes.append(size)
                held.indices.append(index)
        return held
