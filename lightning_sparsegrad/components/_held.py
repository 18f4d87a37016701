"""The tensors of components that this process holds, next to each other as norm kernels take them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_sparsegrad.components.partition import Component
from lightning_sparsegrad.components.projections import Part
from lightning_sparsegrad.functional.sharding import Group, group_of


@dataclass(frozen=True)
class Held:
    """The gradients of components, without the components that have none.

    Args:
        tensors: Gradients and slices of them, those of one component next to each other.
        groups: For each tensor the processes over which it is sharded; `None` for one that each process holds whole.
        sizes: Number of tensors of each component, positive.
        indices: The indices of these components, ascending.
        names: Their names.
    """

    tensors: list[Tensor]
    groups: list[Group | None]
    sizes: list[int]
    indices: list[int]
    names: list[str]

    @staticmethod
    def of(components: Sequence[Component], gradients: Mapping[str, Tensor]) -> "Held":
        """Gather the gradients of components."""
        held = Held([], [], [], [], [])
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
                held.names.append(component.name)
        return held


class Gatherer:
    """Gathers the gradients of components in each window; what is the same as in the last one is not derived again."""

    def __init__(self) -> None:
        self._components: list[Component] = []
        self._present: list[str] = []  # names of gradients
        self._names: list[str] = []  # of the gradient of each tensor in `_last`
        self._cut: list[tuple[int, Part]] = []  # the slices among them, by index
        self._last = Held([], [], [], [], [])  # without tensors

    def __call__(self, components: Sequence[Component], gradients: Mapping[str, Tensor]) -> Held:
        """Return what `Held.of` returns."""
        components, present = list(components), list(gradients)
        if components != self._components or present != self._present:
            self._remember(components, present)
        tensors = [gradients[name] for name in self._names]
        if not all(type(tensor) is Tensor for tensor in tensors):
            return Held.of(components, gradients)  # of a sharded one a process may hold any number of pieces
        for index, part in self._cut:
            tensors[index] = part.of(tensors[index])
        return replace(self._last, tensors=tensors)

    def _remember(self, components: list[Component], present: list[str]) -> None:
        there, held = set(present), Held([], [], [], [], [])
        parts: list[Part] = []
        for index, component in enumerate(components):
            inside = [part for part in component.parts if part.parameter in there]
            if inside:
                parts += inside
                held.sizes.append(len(inside))
                held.indices.append(index)
                held.names.append(component.name)
        held.groups.extend([None] * len(parts))
        self._components, self._present, self._last = components, present, held
        self._names = [part.parameter for part in parts]
        self._cut = [(index, part) for index, part in enumerate(parts) if part.length is not None]
