"""The effect of a transform on each component of the gradient: norms, thresholds, shares clipped and kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

from lightning_sparsegrad.components import Component, ComponentSpec, NamedParameters, Part, check_components, partition
from lightning_sparsegrad.components._held import Held
from lightning_sparsegrad.errors import require_integer
from lightning_sparsegrad.functional import component_norms
from lightning_sparsegrad.functional.sharding import norms_over
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window, scaling_of, stated


@dataclass(frozen=True)
class Measurement:
    """One measurement of the gradient; nothing is read on the host until `values` is.

    Args:
        step: Optimizer steps done before.
        epoch: Epochs done before; `None` if unknown.
        values: Tensor of shape (5, components) on the device of the gradients: the norms before the transform and after
            it, in true gradient units; the share of its units that a clip scaled (1 or 0 if the component is one unit),
            undefined with a strategy that does not state its `factors`; the share kept of the entries that were nonzero
            before; the smallest threshold that a clip compared a norm of its entries with, infinite where the clip
            scales nothing yet, undefined without one. A component that was dropped has norm 0 after, is not clipped,
            and keeps nothing; its norm before is undefined if it was not computed. A component without a gradient,
            because it is frozen, has norm 0 after; its norm before and the share kept are undefined.
    """

    step: int
    epoch: int | None
    values: Tensor


class GradientMeter:
    """A meter that measures every few windows what the engine's transform does to each component.

    In the windows it measures, it costs two passes over the gradients before the transform and two after it, and reads
    nothing on the host. Set it as an engine's `meter`; `last` is its last measurement.

    Args:
        parameters: The parameters of the model, those of the engine.
        transform: The transform, bound to the model: the engine's own.
        every: Number of optimizer steps between measurements; the last of them is measured.
        components: What a component is, see `ComponentNormClip`.

    Attributes:
        components: The components, in the order of the measurements.
        last: The last measurement; `None` before the first. It has the `step`, the `epoch`, and as `values` a tensor of
            shape (5, components): norm before, norm after, share clipped, share kept, threshold.

    Raises:
        ConfigurationError: If `every` is not positive, or the model cannot be cut into such components.

    Example:
        >>> from lightning_sparsegrad import ComponentNormClip, GradientEngine
        >>> model = torch.nn.Linear(4, 1)
        >>> engine = GradientEngine(model, ComponentNormClip(max_norm=0.5))
        >>> engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
        >>> with engine.window(step=0):
        ...     model(torch.ones(1, 4)).sum().backward()
        ...     engine.apply_()
        >>> engine.meter.last.values[:, 0].round(decimals=2).tolist()  # of the weight: norms, clipped, kept, threshold
        [2.0, 0.5, 1.0, 1.0, 0.5]
    """

    def __init__(
        self,
        parameters: NamedParameters,
        transform: GradientTransform,
        *,
        every: int,
        components: ComponentSpec = "projection",
    ) -> None:
        check_meter(every, components)
        self._every = every
        self.components = partition(parameters, components)
        self._parameters, self._members = parameters, list(transform.flattened())
        self._touching: dict[int, list[list[str]]] = {}  # by member, for each component
        self.last: Measurement | None = None
        self._before: tuple[Tensor, Tensor] | None = None
        self._window: Window | None = None
        self._absent: list[bool] = []
        self._asked: int | None = None

    def is_due(self, window: Window) -> bool:
        """Return whether to measure a window; call it for all windows in order: several optimizers may step in one."""
        before = window.step - 1 if self._asked is None or self._asked >= window.step else self._asked
        self._asked = window.step
        return (window.step + 1) // self._every > (before + 1) // self._every

    def before(self, gradients: Gradients, window: Window) -> None:
        """Measure the gradients that the transform is about to change."""
        self._window = window
        self._before = self._norms_and_counts(gradients, missing=nan)
        there = {*gradients, *gradients.skipped}
        self._absent = [there.isdisjoint(part.parameter for part in of.parts) for of in self.components]

    def after(self, gradients: Gradients) -> None:
        """Measure the gradients that the transform left, and set `last`."""
        if self._before is None or self._window is None:
            raise RuntimeError("`GradientMeter.after` should be called after `before`. Found no call.")
        (norms, counts), self._before = self._before, None
        left, kept = self._norms_and_counts(gradients, missing=0.0, device=norms.device)
        shares = torch.where(counts > 0, kept / counts.clamp(min=1), (~norms.isnan()).to(counts))
        dropped = [component.name not in self._present for component in self.components]
        shares = _filled(_filled(shares, dropped, 0.0), self._absent, nan)
        clipped = _filled(self._clipped(norms), dropped, 0.0)  # whether or not they were computed
        values = torch.stack([norms, left, clipped, shares, self._thresholds(norms)]).float()
        self.last = Measurement(self._window.step, self._window.epoch, values)

    def _clipped(self, like: Tensor) -> Tensor:
        clipped = torch.zeros_like(like)
        for index, member in enumerate(self._members):
            factors = scaling_of(member)
            if factors is None:
                return torch.full_like(like, nan)
            for row, factor in self._by_row(index, factors):
                over = ~(factor >= 1)
                clipped[row] = torch.maximum(clipped[row], over.sum() / max(1, over.numel()))
        return clipped

    def _thresholds(self, like: Tensor) -> Tensor:
        smallest = torch.full_like(like, nan)
        for index, member in enumerate(self._members):
            thresholds = member.thresholds if "thresholds" in stated(type(member)) else None
            for row, threshold in self._by_row(index, thresholds or {}):
                smallest[row] = torch.fmin(smallest[row], threshold.to(smallest))
        return smallest

    def _by_row(self, index: int, values: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Yield each value that a member states by component, with the rows of measured ones that share an entry."""
        if values and index not in self._touching:
            scaled = self._members[index].scaled_components or partition(self._parameters, "tensor")
            self._touching[index] = _touching(self.components, scaled, self._parameters)
        for row, names in enumerate(self._touching[index] if values else ()):
            yield from ((row, values[name]) for name in names if name in values)

    def _norms_and_counts(
        self, gradients: Gradients, *, missing: float, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the norm of each component and its number of nonzero entries; `missing` and 0 without a gradient.

        They are on `device` if no component has a gradient.
        """
        held, total = Held.of(self.components, gradients), len(self.components)
        self._present = {self.components[index].name for index in held.indices}
        if not held.tensors:
            return torch.full((total,), missing, device=device), torch.zeros(total, device=device)
        norms = component_norms(held.tensors, held.sizes, groups=held.groups)
        if gradients.loss_scale is not None:
            norms = norms / gradients.loss_scale.to(norms)
        entries = torch.stack([torch.count_nonzero(tensor).to(norms.device) for tensor in held.tensors])
        if any(group is not None for group in held.groups):  # a sum over processes, as the square of a norm
            counts = norms_over(entries.double().sqrt(), held.sizes, held.groups).square()
        else:
            counts = torch.stack([nonzero.sum() for nonzero in torch.split(entries, held.sizes)])
        return _spread(norms, held.indices, total, missing), _spread(counts, held.indices, total, 0.0)


def check_meter(every: int, components: ComponentSpec, *, parameter: str = "every") -> None:
    """Raise a `ConfigurationError` unless `every` is a positive integer and `components` can be cut to."""
    require_integer(parameter, every, least=1)
    check_components(components)


def _filled(values: Tensor, where: Sequence[bool], value: float) -> Tensor:
    """Return values with `value` in place of some; stacking copies nothing from the host."""
    filling = values.new_full((), value)
    return torch.stack([filling if fills else entry for entry, fills in zip(values.unbind(), where, strict=True)])


def _spread(values: Tensor, indices: Sequence[int], total: int, missing: float) -> Tensor:
    """Return `total` float32 values: the given ones at their indices, and `missing` elsewhere."""
    other = torch.full((), missing, dtype=torch.float32, device=values.device)
    by_index = dict(zip(indices, values.float().unbind(), strict=True))
    return torch.stack([by_index.get(index, other) for index in range(total)])


def _touching(
    measured: Sequence[Component], clipped: Sequence[Component], parameters: NamedParameters
) -> list[list[str]]:
    """Return for each measured component the names of the clipped ones that share an entry with it."""
    by_parameter: dict[str, list[tuple[Part, str]]] = {}
    for component in clipped:
        for part in component.parts:
            by_parameter.setdefault(part.parameter, []).append((part, component.name))
    names = (
        [
            name
            for part in component.parts
            for other, name in by_parameter.get(part.parameter, ())
            if _overlap(part, other, parameters[part.parameter])
        ]
        for component in measured
    )
    return [list(dict.fromkeys(overlapping)) for overlapping in names]


def _overlap(part: Part, other: Part, tensor: Tensor) -> bool:
    if part.length is None or other.length is None:
        return True
    if part.groups == other.groups:
        return part.start < other.start + other.length and other.start < part.start + part.length
    positions = torch.arange(tensor.shape[part.dim], device="cpu")
    covered, others = (replace(each, dim=0).of(positions).flatten() for each in (part, other))
    return bool(torch.isin(covered, others).any())
