"""The half of GradDrop that drops tensors or components."""

from collections.abc import Mapping

from torch import Tensor

from lightning_sparsegrad.components import ComponentSpec, NamedParameters, Part, partition
from lightning_sparsegrad.transforms.base import Gradients, share
from lightning_sparsegrad.transforms.masks.mask import draw_dropped

_Key = tuple[str | int, ...]


class UnitMask:
    """A mask that drops a tensor whole if all its units are dropped, and multiplies single dropped slices by zero.

    Args:
        components: What a unit is, see `partition`.
        rescale: Divide the kept entries by `1 - rate`.
    """

    def __init__(self, components: ComponentSpec, *, rescale: bool) -> None:
        self._components, self._rescale = components, rescale
        self._pieces: dict[str, list[tuple[str, Part]]] = {}
        self._trainable: frozenset[str] = frozenset()
        self._last: tuple[_Key, dict[str, float], frozenset[str]] = ((), {}, frozenset())
        self._kept: tuple[int, int] = (0, 0)

    def bind(self, parameters: NamedParameters, names: list[str]) -> None:
        """Cut the masked parameters into the units of the model."""
        self._trainable = frozenset(name for name in parameters if parameters[name].requires_grad)
        self._pieces = {name: [] for name in names}
        for component in partition(parameters, self._components):
            for part in component.parts:
                if part.parameter in self._pieces:
                    self._pieces[part.parameter].append((component.name, part))

    def dropped(self, rates: Mapping[str, float], key: _Key) -> frozenset[str]:
        """Return the tensors that are dropped whole."""
        return self._whole(self._draw(rates, key)[1])

    def rates(self, rates: Mapping[str, float]) -> Mapping[str, float]:
        """Return the rate of each parameter: the lowest in its unit; if it is cut into units, they have the same."""
        unit_rates = self._unit_rates(rates)
        return {name: unit_rates[pieces[0][0]] for name, pieces in self._pieces.items()}

    def apply_(self, gradients: Gradients, rates: Mapping[str, float], key: _Key, lost: int) -> None:
        """Drop slices of the remaining tensors.

        Args:
            gradients: The gradients, without those dropped whole.
            rates: Parameter name to rate.
            key: Key of the draws, without the name of the unit.
            lost: Number of entries dropped whole.
        """
        unit_rates, dropped = self._draw(rates, key)
        kept, total = 0, lost
        for name, pieces in self._pieces.items():
            for unit, part in pieces if name in gradients else ():
                rate, is_dropped, numel = unit_rates[unit], unit in dropped, part.numel(gradients[name])
                kept, total = kept + (0 if is_dropped else numel), total + numel
                if is_dropped or (self._rescale and rate > 0):
                    for piece in part.held(gradients[name]):
                        piece.mul_(0 if is_dropped else 1 / (1 - rate))
        self._kept = kept, total

    @property
    def kept(self) -> Tensor:
        """The share of maskable entries that the last window kept; 0-d, float32."""
        return share(*self._kept)

    def _draw(self, rates: Mapping[str, float], key: _Key) -> tuple[dict[str, float], frozenset[str]]:
        """Return the rate of every unit, and the dropped units; drawn once for each key and rates."""
        unit_rates = self._unit_rates(rates)
        if self._last[:2] != (key, unit_rates):
            dropped = draw_dropped(unit_rates, key, lambda units: not self._trainable <= self._whole(units))
            self._last = key, unit_rates, dropped
        return unit_rates, self._last[2]

    def _unit_rates(self, rates: Mapping[str, float]) -> dict[str, float]:
        unit_rates: dict[str, float] = {}
        for name, pieces in self._pieces.items():
            unit_rates.update({unit: min(rates[name], unit_rates.get(unit, 1.0)) for unit, _ in pieces})
        return unit_rates

    def _whole(self, units: frozenset[str]) -> frozenset[str]:
        return frozenset(name for name, pieces in self._pieces.items() if all(unit in units for unit, _ in pieces))
