"""A strategy: bound to a model once, then applied to the whole gradient once per optimizer step.

A strategy states facts, and the engine acts on them. A fact counts only if it is stated by the class that defines
`apply_`, or by a subclass of that class. If a subclass overrides `apply_`, the facts of its base classes no longer
describe it, and the defaults hold.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_sparsegrad.components import Component, NamedParameters, without_split
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms._checks import check_every, check_seed, refuse_equal_draws
from lightning_sparsegrad.transforms._window import Gradients, ResampleEvery, Window, require_epoch, resample_index

__all__ = [
    "GradientTransform",
    "Gradients",
    "ResampleEvery",
    "Window",
    "check_every",
    "check_seed",
    "needless",
    "owner_of",
    "refuse_equal_draws",
    "require_epoch",
    "resample_index",
    "run_",
    "runs_on_shards",
    "scaling_of",
    "share",
    "stated",
]


Phase = Literal["calibration", "gradient", "update"]


_FACTS = ("dropped", "reads_together", "on_shards", "factors", "thresholds", "skippable", "handles_shards")


class _Derived:
    """`handles_shards` of 0.1, kept until 0.3: strategies of 0.1 set it, and any code may read it."""

    def __get__(self, transform: "GradientTransform | None", kind: "type[GradientTransform]") -> bool:
        if transform is None:
            return kind.on_shards is True and "on_shards" in stated(kind)
        return runs_on_shards(transform)


if TYPE_CHECKING:
    _Default = property
else:

    class _Default:
        """A property that an attribute may shadow: strategies of 0.1 could use these names freely."""

        def __init__(self, get: Callable[[Any], Any]) -> None:
            self._get, self.__doc__ = get, get.__doc__

        def __get__(self, transform: "GradientTransform | None", kind: "type[GradientTransform]") -> Any:
            return self if transform is None else self._get(transform)


class GradientTransform(ABC):
    """Base class of all strategies.

    A strategy is constructed from plain arguments, which it validates; bound to a model, whose names it then resolves;
    and applied once per window. It keeps no reference to gradients between windows. It states what its `apply_` drops
    (`dropped`), reads (`reads_together`, `on_shards`) and multiplies (`factors`). A subclass that overrides `apply_`
    inherits none of these facts: it states them again, or the defaults hold.

    Attributes:
        bounds: What it clips: `"norm"`, `"value"`, both or nothing. A run clips each at most once.
        on_shards: Whether `apply_` handles gradients that are sharded by rows, which it gets as `DTensor`; see
            `functional.shard_of`. By default it does not, and such a model is refused.
        phases: The phases in which it acts: `"calibration"`, `"gradient"`, `"update"`. They run in this order; within
            each, the members of a chain run in the order in which they are listed.
        learns: Whether it keeps state that a step commits, see `commit_`.
        before_clips: Whether it looks for large norms, and so comes before clips in a chain.
    """

    bounds: frozenset[str] = frozenset()
    on_shards: bool = False
    phases: frozenset[Phase] = frozenset({"gradient"})
    learns: bool = False
    before_clips: bool = False
    handles_shards = _Derived()

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
        """Change the gradients of a window in place; the tensors that the strategy drops are already removed.

        Called once per window. A gradient scaler may skip the step of a window whose gradients overflowed, and decides
        so only afterwards. A strategy that learns from gradients therefore keeps what it has learnt only after a step,
        see `commit_`, and ignores gradients that are not finite. A strategy that contains another one applies it
        through a `Chain`, which drops what the other one states.
        """

    # ------------------------------------------------------------ facts about `apply_`
    def dropped(self, window: Window) -> frozenset[str]:  # noqa: ARG002
        """Return the tensors whose whole gradient is dropped in a window, whatever the gradients are.

        A function of the window, and of what the strategy is bound to and `commit_` has kept: it is called once per
        window, before its forward pass, and by `describe` for any windows in any order. The engine removes these
        tensors at the strategy's position in a chain: they end with `grad=None`, and the optimizer skips their weights.
        Their gradients are not computed unless an earlier member of the chain reads them together with others.
        """
        return frozenset()

    def reads_together(self) -> Iterable[frozenset[str]] | None:
        """Return the groups of tensors that `apply_` reads together, once the strategy is bound.

        A tensor in no group is read alone: it has no effect on any other. `None`, the default, means that everything is
        read together.
        """
        return None

    @_Default
    def factors(self) -> Mapping[str, Tensor] | None:
        """The factors by which components were multiplied in the last window, by name; `{}` if none ever is.

        A factor is a 0-d tensor, or has an entry for each unit of the component. A component is one of
        `scaled_components`, or a parameter. `None`, the default, means that the factors are not known.
        """
        return None

    @_Default
    def thresholds(self) -> Mapping[str, Tensor] | None:
        """The norms beyond which components were scaled in the last window, by the names of `factors`; `{}` if none is.

        0-d tensors in true gradient units, infinite where nothing is clipped yet. `None`: not known.
        """
        return None

    @_Default
    def scaled_components(self) -> Sequence[Component]:
        """The components that `factors` and `thresholds` name, once the strategy is bound; none for parameters."""
        return ()

    # ------------------------------------------------------------ phases
    def calibrates(self, window: Window) -> bool:  # noqa: ARG002
        """Return whether the strategy calibrates in a window, so that no optimizer steps; depends on the step alone."""
        return False

    def calibrate_(self, gradients: Gradients, window: Window) -> None:  # noqa: B027  # most do not calibrate
        """Calibrate on the gradients of a window, in which `apply_` is not called."""

    def before_step_(self, weights: Mapping[str, Tensor], window: Window) -> None:  # noqa: B027
        """Act before an optimizer steps: after the last backward pass of a window and any unscaling.

        Args:
            weights: The parameters that the optimizer holds, by name, before its step.
            window: The window.
        """

    def after_step_(self, weights: Mapping[str, Tensor], window: Window, happened: Tensor) -> None:  # noqa: B027
        """Act after the step of an optimizer.

        Args:
            weights: The parameters that the optimizer holds, by name, after its step.
            window: The window.
            happened: Whether the step changed them, as a 0-d boolean tensor on their device: a fused optimizer does
                nothing if gradients overflowed.
        """

    def commit_(self, names: frozenset[str], happened: Tensor) -> None:  # noqa: B027
        """Keep what `apply_` has learnt about parameters, after an optimizer stepped with their gradients.

        Args:
            names: The parameters that the optimizer holds, except those without a gradient and those that were dropped:
                nothing is learnt about these, whether or not their gradients were computed.
            happened: As in `after_step_`; use it on the device, with `torch.where`.
        """

    def forget_(self) -> None:  # noqa: B027
        """Discard what `apply_` has learnt but no step has committed; called before each window."""

    # ------------------------------------------------------------ other members that an engine reads
    def flattened(self) -> Iterator["GradientTransform"]:
        """Yield the transforms that this one consists of, in order; by default itself alone."""
        yield self

    @property
    def schedules(self) -> Sequence[Schedule]:
        """The schedules that the strategy follows."""
        return ()

    def settings(self, window: Window) -> Mapping[str, float | Mapping[str, float]]:
        """Return the rates, thresholds and other numbers that hold in a window, by argument: for `describe`.

        A number holds for everything, or there is one by the name of each component, of `scaled_components` or a
        parameter. By default, what attributes of the strategy hold that are among its `schedules`.

        Args:
            window: The window, asked once the strategy is bound.
        """
        followed = {id(schedule) for schedule in self.schedules if not schedule.needs_height}
        return {name: value(window.progress) for name, value in vars(self).items() if id(value) in followed}

    @_Default
    def held_bytes(self) -> int:
        """Memory beside the state that the strategy allocates on the devices of the model, in bytes: for `describe`."""
        return 0

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        """The (class name, seed) pairs that key the random draws."""
        return ()

    @property
    def needs_total_steps(self) -> bool:
        """Whether the number of optimizer steps has to be known."""
        return any(schedule.needs_progress for schedule in self.schedules)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Statistics of the last window by name: 0-d tensors on the device of the gradients; empty before the first."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run, as plain numbers and tensors. Masks need none: they are recomputed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most strategies have no state
        """Restore what `state_dict` returned."""

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
        """Return the tensors whose gradients need not be computed; kept until 0.3 for strategies of 0.1.

        Args:
            window: The window.
            later: The tensors that later transforms do not need.
        """
        facts = _stated_behind_skippable(type(self))
        dropped = window.dropped_by(self) if "dropped" in facts else frozenset()
        groups = _groups(self) if later and "reads_together" in facts else None
        unread = frozenset() if groups is None else without_split(later, (group - dropped for group in groups))
        return unread | dropped

    def require_total_steps(self, total_steps: int | None) -> None:
        """Raise a `ConfigurationError` if a schedule needs the number of steps and it is not given."""
        if total_steps is None and self.needs_total_steps:
            following = ", ".join(repr(schedule) for schedule in self.schedules if schedule.needs_progress)
            raise ConfigurationError(
                f"Parameter `total_steps` should be given for `{type(self).__name__}` with a schedule over training "
                f"({following or 'by default'}). Found `total_steps = None`."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


# ---------------------------------------------------------------- how the facts are used
def run_(transform: GradientTransform, gradients: Gradients, window: Window) -> None:
    """Apply a strategy to the gradients of a window: drop what it states, then change the rest."""
    outer, gradients.changed_by = gradients.changed_by, transform
    if "dropped" in stated(type(transform)):
        dropped = window.dropped_by(transform)
        if gradients.weights and not dropped <= gradients.weights.keys():
            raise ConfigurationError(
                f"`{transform!r}` should drop parameters of the model, by the first of their names. "
                f"Found `{min(dropped - gradients.weights.keys())}`."
            )
        gradients.lose(dropped, by=transform)
    transform.apply_(gradients, window)
    gradients.changed_by = outer


def needless(transform: GradientTransform, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the tensors whose gradients need not be computed in a window.

    Args:
        transform: A strategy, bound.
        window: The window.
        later: The tensors that later strategies do not need.
    """
    kind = type(transform)
    if owner_of(kind, "skippable") is GradientTransform or "skippable" in stated(kind):
        return transform.skippable(window, later)
    return frozenset()  # stated about another `apply_`


def runs_on_shards(transform: GradientTransform) -> bool:
    """Return whether a strategy states that it handles gradients that are sharded by rows."""
    kind = type(transform)
    if "handles_shards" in vars(transform) or "handles_shards" in stated(kind):
        return bool(transform.handles_shards)
    return transform.on_shards and "on_shards" in stated(kind)


def scaling_of(transform: GradientTransform) -> Mapping[str, Tensor] | None:
    """Return a strategy's `factors`; `None` where it states none about its `apply_`."""
    return transform.factors if "factors" in stated(type(transform)) else None


@cache
def owner_of(kind: type, name: str) -> type:
    """Return the class that defines an attribute of a class."""
    return next(cls for cls in kind.__mro__ if name in vars(cls))


@cache
def stated(kind: type) -> frozenset[str]:
    """Return the facts that are stated by the class that defines `apply_`, or by a subclass of that class."""
    return _stated(kind.__mro__)


@cache
def _stated_behind_skippable(kind: type) -> frozenset[str]:
    """Return the facts stated after the last `skippable` of 0.1 in the `__mro__`, which it reaches by `super()`."""
    order = kind.__mro__[:-1]
    own = [index for index, cls in enumerate(order) if "skippable" in vars(cls) and cls is not GradientTransform]
    return _stated(order[max(own, default=-1) + 1 :])


def _stated(order: Sequence[type]) -> frozenset[str]:
    below = order[: next(index for index, cls in enumerate(order) if "apply_" in vars(cls)) + 1]
    return frozenset(name for name in _FACTS if any(name in vars(cls) for cls in below))


def _groups(transform: GradientTransform) -> list[frozenset[str]] | None:
    """Return the groups of tensors that a strategy reads together."""
    groups = transform.reads_together()
    if groups is None:
        return None
    groups = list(groups)
    for group in groups:
        if isinstance(group, str):
            raise ConfigurationError(f"`{transform!r}` should read together groups of tensors. Found `{group!r}`.")
    return [frozenset(group) for group in groups]


def share(count: Tensor | float, total: int) -> Tensor:
    """Return `count / total` as a 0-d float32 tensor; 1 if `total` is 0."""
    return torch.as_tensor(count / total if total else 1.0, dtype=torch.float32)
