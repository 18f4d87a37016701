"""The norms that a clip would see: their quantiles, and the share that each threshold would clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad.engine import GradientEngine
from lightning_sparsegrad.engine._describing import layers_of
from lightning_sparsegrad.engine._tables import aligned, counted
from lightning_sparsegrad.functional.clipping import clip_factors
from lightning_sparsegrad.transforms import Chain, ComponentNormClip, GradientTransform, NormClip

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_QUANTILES = {"5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
_BEFORE = "norm_before/"


@dataclass(frozen=True)
class NormRow:
    """The norms of a component, or of all components of a layer, over some windows.

    Args:
        name: The component or the layer.
        components: How many components that is.
        norms: How many norms there are: one for each component and each window in which it has a gradient.
        nonfinite: How many of them are infinite or undefined, which `quantiles` leave out.
        quantiles: The quantiles, by name; `None` without a finite norm.
        clipped: The share of the norms that a threshold would clip, by threshold; `None` without a norm.
    """

    name: str
    components: int
    norms: int
    nonfinite: int
    quantiles: dict[str, float | None]
    clipped: dict[str, float | None]


@dataclass(frozen=True)
class NormTable:
    """The norms that a clip would see; `str()` is two tables by layer, `as_dict()` has every component.

    Args:
        clip: The clip that measured.
        windows: How many windows had a norm.
        layers: The rows of the table: the layers, components that are in several of them, and all together.
        components: A row for each component.
    """

    clip: str
    windows: int
    layers: tuple[NormRow, ...]
    components: tuple[NormRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)

    @override
    def __str__(self) -> str:
        columns = range(1, 2 + len(THRESHOLDS))
        norms = [[row.name, str(row.components), *map(_short, row.quantiles.values())] for row in self.layers]
        shares = [[row.name, *map(_percent, row.clipped.values())] for row in self.layers]
        lost = sum(row.nonfinite for row in self.components)
        return "\n".join(
            [
                f"norms of {counted(self.windows, 'window')} without a step, as {self.clip} would see them",
                *([f"quantiles leave out {counted(lost, 'infinite or undefined norm')}"] if lost else []),
                "",
                *aligned([["norms", "components", *_QUANTILES], *norms], right=columns),
                "",
                *aligned([["clipped at", *(f"{each:g}" for each in THRESHOLDS)], *shares], right=columns),
            ]
        )


class Norms:
    """Has an engine measure what its clip sees, without clipping; without a clip of norms, behind its strategy.

    Args:
        engine: The engine, whose transform is changed.
    """

    def __init__(self, engine: GradientEngine) -> None:
        self._engine, self._windows = engine, 0
        self._layers, self._layer_of = layers_of(engine.parameters, engine.transform)
        clips = [member for member in engine.transform.flattened() if isinstance(member, NormClip)]
        if not clips:
            clips = [ComponentNormClip(max_norm=1.0)]
            clips[0].bind(engine.parameters, total_steps=None)
            engine.transform = _with_clip(engine.transform, clips[0])
        (self._clip,) = clips  # a second one is refused
        self._name = type(self._clip).__name__
        self._clip.loosen()
        self._norms: dict[str, list[Tensor]] = {component.name: [] for component in self._clip.scaled_components}

    def add(self) -> None:
        """Take the norms of a window that was applied; one that calibrates has none."""
        norms = {key: norm for key, norm in self._engine.statistics.items() if _BEFORE in key}
        self._windows += bool(norms)
        for key, norm in norms.items():
            self._norms[key.partition(_BEFORE)[2]].append(norm.cpu())

    def table(self) -> NormTable:
        """Return what was measured."""
        groups: dict[str, list[str]] = {layer: [] for layer in self._layers}
        for component in self._clip.scaled_components:
            layers = {self._layer_of[part.parameter] for part in component.parts}
            groups.setdefault(layers.pop() if len(layers) == 1 else component.name, []).append(component.name)
        rows = [self._row(name, names) for name, names in groups.items() if names]
        if len(rows) > 1:
            rows.append(self._row("all", list(self._norms)))
        return NormTable(
            clip=self._name,
            windows=self._windows,
            layers=tuple(rows),
            components=tuple(self._row(name, [name]) for name in self._norms),
        )

    def _row(self, name: str, names: Sequence[str]) -> NormRow:
        each = [norm for component in names for norm in self._norms[component]]
        norms = torch.stack(each) if each else torch.zeros(0)
        finite = norms[norms.isfinite()]
        return NormRow(
            name=name,
            components=len(names),
            norms=len(norms),
            nonfinite=len(norms) - len(finite),
            quantiles={key: float(finite.quantile(at)) if len(finite) else None for key, at in _QUANTILES.items()},
            clipped={f"{bound:g}": _share_over(norms, bound) for bound in THRESHOLDS},
        )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _share_over(norms: Tensor, max_norm: float) -> float | None:
    """Return the share of norms that a threshold clips, by the very rounding of a clip; `None` without a norm."""
    return float((~(clip_factors(norms, max_norm) >= 1)).float().mean()) if len(norms) else None


def _with_clip(transform: GradientTransform, clip: GradientTransform) -> GradientTransform:
    """Return a strategy with a clip in place of that of norms which it has, else behind all that changes gradients."""
    if "norm" in transform.bounds and not isinstance(transform, Chain):
        return clip
    members: Mapping[str, GradientTransform] = {type(transform).__name__: transform}
    if isinstance(transform, Chain):
        members = transform.transforms
    if "norm" in transform.bounds:
        bounding = {name: _with_clip(each, clip) for name, each in members.items() if "norm" in each.bounds}
        return Chain({**members, **bounding})
    ahead = {name: each for name, each in members.items() if "gradient" in each.phases}
    behind = {name: each for name, each in members.items() if "gradient" not in each.phases}
    return Chain({**ahead, f"{type(clip).__name__} to measure by": clip, **behind})
