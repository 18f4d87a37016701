"""The half of GradDrop that drops entries or rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.functional import count_kept, derive_keys, keep_threshold, mask_entries_, mask_rows_
from lightning_sparsegrad.functional._triton import is_for
from lightning_sparsegrad.transforms.base import Gradients

_WORTH_COMPILING = 1 << 35  # entries whose eager masks have cost about as much time as compiling the kernel


class EntryMask:
    """A mask that multiplies entries or rows by zero; a tensor with a rate of 1 is dropped whole.

    Args:
        by_row: Whether the unit is a row rather than an entry.
        rescale: Divide the kept entries by `1 - rate`.
        fused: Whether entries go through the compiled kernel, see `GradDrop`.
    """

    def __init__(self, *, by_row: bool, rescale: bool, fused: bool | None) -> None:
        self._by_row, self._rescale, self._fused = by_row, rescale, fused
        self._masked = 0  # entries so far
        self._last = _Masks()

    def bind(self, parameters: NamedParameters, names: list[str]) -> None:
        """Do nothing: entries need no names resolved."""

    def dropped(self, rates: Mapping[str, float], key: tuple[str | int, ...]) -> frozenset[str]:  # noqa: ARG002
        """Return the tensors that a mask drops whole."""
        return frozenset(name for name, rate in rates.items() if keep_threshold(rate) == keep_threshold(1))

    def rates(self, rates: Mapping[str, float]) -> Mapping[str, float]:
        """Return the rate of each parameter: its own."""
        return rates

    def apply_(self, gradients: Gradients, rates: Mapping[str, float], key: tuple[str | int, ...], lost: int) -> None:
        """Drop entries or rows of the remaining tensors.

        Args:
            gradients: The gradients, without those dropped whole.
            rates: Parameter name to rate.
            key: Key of the draws, without the parameter name.
            lost: Number of entries dropped whole.
        """
        names = [name for name in rates if name in gradients]
        tensors, drawn = [gradients[name] for name in names], [rates[name] for name in names]
        self._last = _Masks(lost)
        if not any(drawn):
            self._last.kept += sum(tensor.numel() for tensor in tensors)
            return
        keys = derive_keys(key, names)
        if self._by_row:
            mask_rows_(tensors, keys, drawn, rescale=self._rescale)
        else:
            soon = self._masked >= _WORTH_COMPILING or any(map(is_for, tensors))
            fused = soon if self._fused is None else self._fused
            mask_entries_(tensors, keys, drawn, rescale=self._rescale, fused=fused)
            if self._fused is None:
                self._masked += sum([tensor.numel() for tensor in tensors])
        shapes = [tensor.shape for tensor in tensors]
        self._last = _Masks(lost, device=tensors[0].device, by_row=self._by_row, shapes=shapes, keys=keys, rates=drawn)

    @property
    def kept(self) -> Tensor:
        """The share of maskable entries that the last window kept; 0-d, float32."""
        return self._last.share_kept()


@dataclass
class _Masks:
    """The draws of one window: enough to count the kept entries on request."""

    lost: int = 0
    kept: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    by_row: bool = False
    shapes: list[torch.Size] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle; until 0.4 also one of 0.2, a list of units, entries of each, key and rate."""
        older = state.pop("masks", [])
        if older:
            units, sizes, keys, rates = zip(*older, strict=True)
            state.update(
                shapes=list(map(torch.Size, zip(units, sizes, strict=True))), keys=keys, rates=rates, by_row=True
            )
        vars(self).update(vars(_Masks()) | state)

    def share_kept(self) -> Tensor:
        total = self.lost + self.kept + sum(shape.numel() for shape in self.shapes)
        kept = torch.full((), self.kept, dtype=torch.float64, device=self.device)  # a copy would wait
        for shape, key, rate in zip(self.shapes, self.keys, self.rates, strict=True):
            units = shape[:1].numel() if self.by_row else shape.numel()
            kept += shape.numel() // max(units, 1) * count_kept(units, key, rate, self.device)
        return (kept / total).float() if total else torch.ones((), device=self.device)
