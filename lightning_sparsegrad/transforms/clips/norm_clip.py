"""Clips of gradient norms to thresholds that are given."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import inf, isinf
from typing import get_args

import torch
from torch import Tensor

from lightning_sparsegrad.components import Component, NamedParameters
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional.clipping import NormKind, bounds_on, clip_factors
from lightning_sparsegrad.schedules import Constant, Schedule, as_threshold
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.clips.component_clip import ComponentClip

_LOOSE = 1e30  # beyond any norm, and finite: what is infinite is not measured


class NormClip(ComponentClip):
    """Base class of clips that scale each component to its own threshold.

    Args:
        max_norm: Threshold in true gradient units, positive, or a schedule; infinity clips nothing.
        norm_type: 2.0 or infinity.
        norm: `"blockwise"` or `"torch"`, see `functional.component_norms`.
    """

    def __init__(self, max_norm: float | Schedule, *, norm_type: float = 2.0, norm: NormKind = "blockwise") -> None:
        super().__init__()
        self.max_norm = as_threshold("max_norm", max_norm)
        if norm_type not in {2.0, inf}:
            raise ConfigurationError(f"Parameter `norm_type` should be 2.0 or inf. Found `norm_type = {norm_type}`.")
        if norm not in get_args(NormKind):
            raise ConfigurationError(f"Parameter `norm` should be 'blockwise' or 'torch'. Found `norm = {norm!r}`.")
        self.norm_type, self.norm = float(norm_type), norm
        self._given: list[Schedule] = []
        self._limits: dict[str, int] = {}  # index of the threshold of each component

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.max_norm,)

    @abstractmethod
    def resolve(self, parameters: NamedParameters) -> list[tuple[Component, Schedule]]:
        """Return the components of a model, each with its threshold."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        resolved = self.resolve(parameters)
        self.scaled_components = [component for component, _ in resolved]
        # a schedule of the user's may be unhashable, or equal to another one
        given = {id(threshold): threshold for _, threshold in resolved}
        order = {key: index for index, key in enumerate(given)}
        self._given = list(given.values())
        self._limits = {component.name: order[id(threshold)] for component, threshold in resolved}

    def loosen(self) -> None:
        """Clip nothing from now on and measure every component, also one whose threshold was infinite."""
        self.max_norm = Constant(_LOOSE)
        self._given, self._limits = [self.max_norm], dict.fromkeys(self._limits, 0)

    def measured(self, window: Window) -> Sequence[Component]:
        max_norms = self._max_norms(window)
        if not any(map(isinf, max_norms)):
            return self.scaled_components
        return [each for each in self.scaled_components if not isinf(max_norms[self._limits[each.name]])]

    def clip(self, norms: Tensor, components: Sequence[Component], window: Window) -> tuple[Tensor, Tensor]:
        max_norms = self._max_norms(window)
        if len(max_norms) > 1:
            max_norms = [max_norms[self._limits[component.name]] for component in components]
        bounds = bounds_on(norms, max_norms)
        return torch.ones_like(norms) * bounds, clip_factors(norms, bounds)

    def settings(self, window: Window) -> Mapping[str, Mapping[str, float]]:
        max_norms = self._max_norms(window)
        return {"max_norm": {name: max_norms[index] for name, index in self._limits.items()}}

    def _max_norms(self, window: Window) -> list[float]:
        return [schedule(window.progress) for schedule in self._given]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_norm={self.max_norm!r})"
