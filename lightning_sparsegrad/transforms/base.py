"""What a strategy is: bound to a model once, then applied to the whole gradient once per optimizer step."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.schedules import Schedule

ResampleEvery = int | Literal["epoch"] | None


@dataclass(frozen=True)
class Window:
    """Where training stands: the micro-batches that accumulate into one optimizer step.

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


class Gradients(dict[str, Tensor]):
    """The gradients of one window by parameter name, in model order; a transform edits the tensors in place.

    Args:
        gradients: Name to gradient, of the parameters that have one.
        loss_scale: 0-d tensor by which all of them are multiplied, or `None`.
        skipped: Name to number of entries, of the tensors whose gradients were not computed, for they will be dropped.

    Attributes:
        dropped: Names of the tensors dropped whole so far. They are out of the mapping, and end without a gradient.
        skipped: What was not computed and not yet dropped.
    """

    def __init__(
        self,
        gradients: dict[str, Tensor],
        *,
        loss_scale: Tensor | None = None,
        skipped: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(gradients)
        self.loss_scale, self.skipped = loss_scale, dict(skipped or {})
        self.dropped: list[str] = []

    def drop(self, names: Iterable[str]) -> None:
        """Take tensors out of the window: they end with `grad=None`, and an optimizer leaves their weights alone."""
        for name in names:
            self.skipped.pop(name, None)
            if self.pop(name, None) is not None:
                self.dropped.append(name)

    def numel(self) -> int:
        """Return the number of entries of what is not dropped yet, computed or not."""
        return sum(gradient.numel() for gradient in self.values()) + sum(self.skipped.values())


class GradientTransform(ABC):
    """Base of all strategies.

    A strategy is constructed from plain arguments, which it validates; bound to a model, where it resolves names; and
    applied once per window. It keeps no reference to gradients between windows.

    Attributes:
        bounds: What it clips, of `"norm"` and `"value"`; a run clips each at most once.
        handles_shards: Whether `apply_` is right for gradients that are sharded by rows, which it is given as
            `DTensor`; see `functional.sharding`. A subclass with an `apply_` of its own has to say so anew.
    """

    bounds: frozenset[str] = frozenset()
    handles_shards: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "apply_" in cls.__dict__:  # it may read what its base does not
            if "skippable" not in cls.__dict__:
                cls.skippable = GradientTransform.skippable  # type: ignore[method-assign]
            if "handles_shards" not in cls.__dict__:
                cls.handles_shards = False

    @abstractmethod
    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        """Resolve names and patterns against a model, once, before the first window.

        Args:
            parameters: The parameters of the model.
            total_steps: Optimizer steps of the whole training, or `None` if unknown.

        Raises:
            ConfigurationError: If the strategy cannot work on this model.
        """

    @abstractmethod
    def apply_(self, gradients: Gradients, window: Window) -> None:
        """Change the gradients of a window in place.

        Called once per window. A gradient scaler may leave out the step of a window whose gradients overflowed, and is
        asked only afterwards: a strategy that learns from gradients has to leave non-finite ones out itself.
        """

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:  # noqa: ARG002
        """Return the tensors whose gradients need not be computed in a window; asked before its forward pass.

        These are what the transform drops whole whatever the gradients are, and what transforms behind it drop unless
        it reads them together with others, as a norm over several tensors does. By default, and in a subclass with an
        `apply_` of its own, none: it may read anything.

        Args:
            window: The window.
            later: The tensors that transforms behind this one do not need.
        """
        return frozenset()

    def flattened(self) -> Iterator["GradientTransform"]:
        """Yield the transforms that this one is made of, in their order; by default itself."""
        yield self

    @property
    def schedules(self) -> Sequence[Schedule]:
        """Everything that follows training progress."""
        return ()

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        """The (class name, seed) pairs random draws are keyed by."""
        return ()

    @property
    def needs_total_steps(self) -> bool:
        """Whether the number of optimizer steps has to be known."""
        return any(schedule.needs_progress for schedule in self.schedules)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What the last window did, by name, as 0-d tensors on the device of the gradients; empty before the first."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain numbers and tensors. Masks need nothing: they are recomputed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most strategies have no state
        """Restore what `state_dict` returned."""

    def require_total_steps(self, total_steps: int | None) -> None:
        """Raise a `ConfigurationError` if a schedule has nothing to follow."""
        if total_steps is None and self.needs_total_steps:
            following = ", ".join(repr(schedule) for schedule in self.schedules if schedule.needs_progress)
            raise ConfigurationError(
                f"Parameter `total_steps` should be given for `{type(self).__name__}` with a schedule over training "
                f"({following or 'by default'}). Found `total_steps = None`."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def check_every(parameter: str, value: ResampleEvery) -> None:
    """Raise a `ConfigurationError` unless `value` is a positive number of steps, `"epoch"` or `None`."""
    if value is None or value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return
    raise ConfigurationError(
        f"Parameter `{parameter}` should be a positive number of steps, 'epoch' or None. "
        f"Found `{parameter} = {value!r}`."
    )


def check_seed(value: int | None) -> None:
    """Raise a `ConfigurationError` unless `value` is a non-negative integer or `None`."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigurationError(
            f"Parameter `seed` should be a non-negative integer, or None for the seed of the run. "
            f"Found `seed = {value!r}`."
        )


def refuse_equal_draws(seeds: Iterable[tuple[str, int | None]]) -> None:
    """Raise a `ConfigurationError` if two strategies of one class would draw by the same seed."""
    for (kind, seed), count in Counter(seeds).items():
        if count > 1:
            raise ConfigurationError(
                f"Parameter `seed` should differ between the `{kind}` of a chain, or they drop the same entries. "
                f"Found `seed = {seed}` {count} times."
            )


def refuse_depth(parameter: str, schedule: Schedule) -> None:
    """Raise a `ConfigurationError` if a schedule follows depth where there is none to follow."""
    if schedule.needs_height:
        raise ConfigurationError(
            f"Parameter `{parameter}` should be the same at every depth. Found `{parameter} = {schedule}`."
        )


def resample_index(every: ResampleEvery, window: Window) -> int:
    """Return the number of draws before this window's: masks with the same index are the same."""
    if every is None:
        return 0
    return require_epoch("resample_every", window) if every == "epoch" else window.step // every


def require_epoch(parameter: str, window: Window) -> int:
    """Return the window's epoch; a `ConfigurationError` if it is unknown."""
    if window.epoch is None:
        raise ConfigurationError(f"Parameter `epoch` of the window should be given with `{parameter} = 'epoch'`.")
    return window.epoch


def share(part: Tensor | float, whole: int) -> Tensor:
    """Return `part / whole` as a 0-d float32 tensor; of nothing, everything."""
    return torch.as_tensor(part / whole if whole else 1.0, dtype=torch.float32)
