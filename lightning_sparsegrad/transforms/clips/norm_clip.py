"""Clips of gradient norms."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from math import inf, isinf

import torch
from torch import Tensor

from lightning_sparsegrad.components import Component, NamedParameters
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional import clip_components_
from lightning_sparsegrad.functional.sharding import Group, group_of
from lightning_sparsegrad.schedules import Constant, Schedule, as_threshold
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window, refuse_depth

_LOOSE = 1e30  # beyond any norm, and finite: what is infinite is not measured


class NormClip(GradientTransform):
    """Base class of clips that scale each component to its own threshold.

    Args:
        max_norm: Threshold in true gradient units, positive, or a schedule; infinity clips nothing.
        norm_type: 2.0 or infinity.
    """

    bounds = frozenset({"norm"})
    on_shards = True

    def __init__(self, max_norm: float | Schedule, *, norm_type: float = 2.0) -> None:
        self.max_norm = as_threshold("max_norm", max_norm)
        refuse_depth("max_norm", self.max_norm)
        if norm_type not in {2.0, inf}:
            raise ConfigurationError(f"Parameter `norm_type` should be 2.0 or inf. Found `norm_type = {norm_type}`.")
        self.norm_type = float(norm_type)
        self._resolved: list[tuple[Component, Schedule]] = []
        self._names: list[str] = []
        self._norms = self._factors = torch.ones(0)
        self._thresholds: list[float] = []

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.max_norm,)

    @abstractmethod
    def resolve(self, parameters: NamedParameters) -> list[tuple[Component, Schedule]]:
        """Return the components of a model, each with its threshold."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        self._resolved = self.resolve(parameters)

    def loosen(self) -> None:
        """Clip nothing from now on and measure every component, also one whose threshold was infinite."""
        self.max_norm = Constant(_LOOSE)
        self._resolved = [(component, self.max_norm) for component, _ in self._resolved]

    def reads_together(self) -> Iterator[frozenset[str]]:
        return (frozenset(part.parameter for part in component.parts) for component, _ in self._resolved)

    def apply_(self, gradients: Gradients, window: Window) -> None:
        held: list[tuple[Tensor, Group | None]] = []
        sizes: list[int] = []
        self._names, self._thresholds = [], []
        max_norms = {id(schedule): schedule(window.progress) for schedule in self.schedules}
        for component, threshold in self._resolved:
            max_norm = max_norms[id(threshold)]
            if isinf(max_norm):
                continue
            present = [(part, gradients[part.parameter]) for part in component.parts if part.parameter in gradients]
            pieces = [(piece, group_of(gradient)) for part, gradient in present for piece in part.held(gradient)]
            if pieces:
                held += pieces
                sizes.append(len(pieces))
                self._thresholds.append(max_norm)
                self._names.append(component.name)
        if held:
            tensors, groups = zip(*held, strict=True)
            scale = gradients.loss_scale
            self._norms, self._factors = clip_components_(
                tensors, sizes, self._thresholds, norm_type=self.norm_type, loss_scale=scale, groups=groups
            )

    def settings(self, window: Window) -> Mapping[str, Mapping[str, float]]:
        return {"max_norm": {component.name: threshold(window.progress) for component, threshold in self._resolved}}

    @property
    def scaled_components(self) -> Sequence[Component]:
        return [component for component, _ in self._resolved]

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return dict(zip(self._names, self._factors.unbind(), strict=True)) if self._names else {}

    @property
    def thresholds(self) -> Mapping[str, Tensor]:
        """The `max_norm` of each component that was measured, which one with an infinite `max_norm` is not."""
        return {
            name: self._norms.new_full((), max_norm)
            for name, max_norm in zip(self._names, self._thresholds, strict=True)
        }

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`clipped`: share of components over their threshold; for each, `norm_before/NAME` and `norm_after/NAME`."""
        if not self._names:
            return {"clipped": torch.zeros(())}
        before, after = self._norms.unbind(), (self._norms * self._factors).unbind()
        over = ~(self._factors >= 1)  # an undefined norm counts
        return {
            "clipped": over.float().mean(),
            **{f"norm_before/{name}": norm for name, norm in zip(self._names, before, strict=True)},
            **{f"norm_after/{name}": norm for name, norm in zip(self._names, after, strict=True)},
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_norm={self.max_norm!r})"
