"""The base class of clips by the norms of components."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from lightning_sparsegrad.components import Component
from lightning_sparsegrad.components._held import Gatherer, Held
from lightning_sparsegrad.functional import component_norms, scale_components_
from lightning_sparsegrad.functional.clipping import NormKind
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window


class ComponentClip(GradientTransform):
    """Base class of clips that scale each component so that its norm is at most a threshold.

    A subclass sets `scaled_components` in `bind`. It states `reads_together` itself if a threshold depends on the norms
    of other components.

    Attributes:
        norm_type: 2.0 or infinity.
        norm: How norms are computed, see `functional.component_norms`.
        scaled_components: The components, once the clip is bound.
    """

    bounds = frozenset({"norm"})
    on_shards = True
    norm_type: float = 2.0
    norm: NormKind = "blockwise"
    scaled_components: Sequence[Component] = ()

    def __init__(self) -> None:
        self._names: list[str] = []  # of the components measured in the last window
        self._norms = self._thresholds = self._factors = torch.ones(0)

    @cached_property
    def _gather(self) -> Gatherer:
        return Gatherer()  # on demand: a subclass may have an `__init__` of its own, a pickle may be older

    def measured(self, window: Window) -> Sequence[Component]:  # noqa: ARG002
        """Return the components that a window may clip; the others are not even measured."""
        return self.scaled_components

    @abstractmethod
    def clip(self, norms: Tensor, components: Sequence[Component], window: Window) -> tuple[Tensor, Tensor]:
        """Return the thresholds of components and the factors by which they are multiplied.

        Args:
            norms: The norms of the components in true gradient units, of shape (len(components),), in float32 or wider.
            components: The components that have a gradient.
            window: The window.

        Returns:
            Two tensors like `norms`: thresholds in true gradient units; and factors, 1 where nothing is clipped.
        """

    def reads_together(self) -> Iterable[frozenset[str]] | None:
        return (frozenset(part.parameter for part in component.parts) for component in self.scaled_components)

    def apply_(self, gradients: Gradients, window: Window) -> None:
        components = self.measured(window)
        held = self._gather(components, gradients)
        self._names = held.names
        if held.names:
            norms = component_norms(
                held.tensors, held.sizes, norm_type=self.norm_type, groups=held.groups, norm=self.norm
            )
            if gradients.loss_scale is not None:
                norms = norms / gradients.loss_scale.to(norms)
            self._norms = norms
            self._thresholds, self._factors = self.clip(norms, [components[index] for index in held.indices], window)
            self.scale_(gradients, held, window)

    def scale_(self, gradients: Gradients, held: Held, window: Window) -> None:  # noqa: ARG002
        """Multiply the components that have a gradient by their factors."""
        scale_components_(held.tensors, held.sizes, self._factors)

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return self._by_name(self._factors)

    @property
    def thresholds(self) -> Mapping[str, Tensor]:
        """The norms to which components were clipped in the last window, in true gradient units, by name."""
        return self._by_name(self._thresholds)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`clipped`: share of components over their threshold; for each, `norm_before/NAME` and `norm_after/NAME`."""
        if not self._names:
            return {"clipped": torch.zeros(())}
        over = ~(self._factors >= 1)  # an undefined norm counts
        norms = {"norm_before": self._norms, "norm_after": self._norms * self._factors}
        return {
            "clipped": over.float().mean(),
            **{
                f"{kind}/{name}": norm for kind, all_of in norms.items() for name, norm in self._by_name(all_of).items()
            },
        }

    def _by_name(self, values: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, values.unbind(), strict=True)) if self._names else {}
