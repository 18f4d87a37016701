"""One optimizer step as a strategy sees it: the progress of training, and the gradients."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Literal, Protocol

import torch
from torch import Tensor

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional import tensor_norms

ResampleEvery = int | Literal["epoch"] | None


class _Drops(Protocol):
    def dropped(self, window: "Window", /) -> frozenset[str]: ...


@dataclass(frozen=True)
class Window:
    """The micro-batches that accumulate into one optimizer step, and where training stands at it.

    Args:
        step: Optimizer steps done before this one, from 0.
        epoch: Epochs done before this one, from 0; `None` if unknown.
        total_steps: Optimizer steps of the whole training; `None` if unknown.
        seed: Seed of the run, for strategies that have none of their own.
    """

    step: int
    epoch: int | None = None
    total_steps: int | None = None
    seed: int = 0

    @property
    def progress(self) -> float:
        """Share of training done: 0 at the first optimizer step, 1 at the last and after it."""
        if self.total_steps is None:
            return 0.0  # only schedules that do not look at it get here: see `GradientTransform.require_total_steps`
        return min(1.0, self.step / max(1, self.total_steps - 1))

    @cached_property
    def _draws(self) -> dict[int, tuple[_Drops, frozenset[str]]]:
        return {}

    def dropped_by(self, transform: _Drops) -> frozenset[str]:
        """Return the tensors that a strategy drops whole in this window; the strategy is asked only once."""
        if id(transform) not in self._draws:
            names = type(transform).dropped(transform, self)  # strategies of 0.1 may have an attribute of this name
            if isinstance(names, str) or not isinstance(names, Iterable):
                raise ConfigurationError(f"`{transform!r}` should drop a set of names. Found `{names!r}`.")
            self._draws[id(transform)] = transform, frozenset(names)  # kept alive, so that its id is not reused
        return self._draws[id(transform)][1]


class Gradients(dict[str, Tensor]):
    """The gradients of one window by parameter name, in model order; a strategy edits the tensors in place.

    Args:
        gradients: Name to gradient, of the parameters that have one.
        loss_scale: 0-d tensor by which all gradients are multiplied, or `None`.
        unscaled: Whether they were multiplied by a loss scale, and are no longer.
        skipped: Name to number of entries, for tensors whose gradients were not computed because they will be dropped.
        weights: Name to parameter, of the whole model.
        deprecated: Called with a strategy that uses `drop`.

    Attributes:
        dropped: Names of the tensors dropped whole so far. They are no longer in the mapping, and end without a
            gradient.
        skipped: Name to number of entries, for tensors that were not computed and are not dropped yet.
        weights: The parameters of the whole model by name, before the step.
        under_loss_scaling: Whether the loss was scaled, so that a gradient scaler skips the step after an overflow.
        changed_by: The strategy that is being applied.
    """

    def __init__(
        self,
        gradients: dict[str, Tensor],
        *,
        loss_scale: Tensor | None = None,
        unscaled: bool = False,
        skipped: Mapping[str, int] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        deprecated: Callable[[object], None] | None = None,
    ) -> None:
        super().__init__(gradients)
        self.loss_scale, self.skipped, self.weights = loss_scale, dict(skipped or {}), weights or {}
        self.under_loss_scaling = loss_scale is not None or unscaled
        self.dropped: list[str] = []
        self._deprecated = deprecated
        self.changed_by: object = None

    @cached_property
    def _lost(self) -> dict[int, int]:
        return {}

    @property
    def finite(self) -> Tensor:
        """Whether every entry is finite now: a 0-d boolean tensor on the device of the gradients."""
        if not self:
            return torch.ones((), dtype=torch.bool)
        return tensor_norms(list(self.values()), norm_type=inf).isfinite().all()

    def norms(self) -> dict[str, Tensor]:
        """Return the current norm of each gradient in true units: 0-d tensors, in float32 or wider."""
        if not self:
            return {}
        norms = tensor_norms(list(self.values()))
        if self.loss_scale is not None:
            norms = norms / self.loss_scale.to(norms)
        return dict(zip(self, norms.unbind(), strict=True))

    def numel(self) -> int:
        """Return the number of entries that are not dropped yet, computed or not."""
        return sum(gradient.numel() for gradient in self.values()) + sum(self.skipped.values())

    def lose(self, names: Iterable[str], by: object) -> None:
        """Remove tensors that a strategy drops whole: they end with `grad=None`, and the optimizer skips them."""
        names = frozenset(names)
        count = sum(self.skipped.pop(name) for name in names & self.skipped.keys())
        present = names & self.keys()
        count += sum(self.pop(name).numel() for name in present)
        self.dropped += present
        self._lost[id(by)] = self.lost_by(by) + count

    def lost_by(self, transform: object) -> int:
        """Return how many entries, computed or not, a strategy has removed."""
        return self._lost.get(id(transform), 0)

    def drop(self, names: Iterable[str]) -> None:
        """Remove tensors from the window. Deprecated until 0.3: state `dropped`, see `GradientTransform`."""
        if self._deprecated is not None:
            self._deprecated(self.changed_by)
        self.lose(names, by=self)


def resample_index(every: ResampleEvery, window: Window) -> int:
    """Return the number of draws before this window's: masks with the same index are the same."""
    if every is None:
        return 0
    return require_epoch("resample_every", window) if every == "epoch" else window.step // every


def require_epoch(parameter: str, window: Window) -> int:
    """Return the window's epoch; raise a `ConfigurationError` if it is unknown."""
    if window.epoch is None:
        raise ConfigurationError(f"Parameter `epoch` of the window should be given with `{parameter} = 'epoch'`.")
    return window.epoch
