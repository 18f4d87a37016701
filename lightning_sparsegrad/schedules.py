r"""A rate or a threshold as a function of training progress (and, for `TopDown`, of depth).

Progress :math:`t` is 0 at the first optimizer step and 1 at the last. Height is 0 at the bottom of the model (the
embeddings) and 1 at the top (the head).
"""

from abc import ABC, abstractmethod
from math import cos, isfinite, pi
from numbers import Real
from typing import ClassVar

from lightning_sparsegrad.errors import ConfigurationError

_LEAST = 2.0**-126


class Schedule(ABC):
    """A number that follows training progress; subclass it for one of your own.

    Attributes:
        needs_progress: Whether the value changes with progress, so that the number of steps has to be known.
        needs_height: Whether the value changes with depth, so that the layers of the model have to be known.
    """

    needs_progress: ClassVar[bool] = True
    needs_height: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, progress: float, height: float = 1.0) -> float:
        """Return the value.

        Args:
            progress: Share of training done, in [0, 1].
            height: How high in the model, in [0, 1].
        """

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Return the lowest and the highest value the schedule takes."""


class Constant(Schedule):
    """The same value throughout.

    Args:
        value: The value.

    Example:
        >>> Constant(0.2)(progress=0.7)
        0.2
    """

    needs_progress = False

    def __init__(self, value: float) -> None:
        if not _is_number(value):
            raise ConfigurationError(f"Parameter `value` should be a number. Found `value = {value!r}`.")
        self.value = float(value)

    def __call__(self, progress: float, height: float = 1.0) -> float:  # noqa: ARG002
        return self.value

    def bounds(self) -> tuple[float, float]:
        return self.value, self.value

    def __repr__(self) -> str:
        return f"{self.value:g}"


class _Ramp(Schedule):
    """A change from `start` to `end` while progress goes from `begin` to `finish`; constant before and after."""

    def __init__(self, start: float, end: float, *, begin: float = 0.0, finish: float = 1.0) -> None:
        if not (_is_number(begin) and _is_number(finish) and 0 <= begin < finish <= 1):
            raise ConfigurationError(
                f"Parameters `begin` and `finish` should satisfy 0 <= begin < finish <= 1. "
                f"Found `begin = {begin}`, `finish = {finish}`."
            )
        _require_finite(start=start, end=end)
        self.start, self.end, self.begin, self.finish = float(start), float(end), begin, finish

    def __call__(self, progress: float, height: float = 1.0) -> float:  # noqa: ARG002
        share = min(1.0, max(0.0, (progress - self.begin) / (self.finish - self.begin)))
        return _between(self.start, self.end, self._shape(share))

    @abstractmethod
    def _shape(self, share: float) -> float:
        """Return the completed share of the change, in [0, 1], at a share of the time."""

    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.start:g}, {self.end:g}, begin={self.begin:g}, finish={self.finish:g})"


class Linear(_Ramp):
    r"""A straight line, :math:`v(t) = v_0 + (v_1 - v_0) s` with :math:`s = (t - t_0) / (t_1 - t_0)` clamped to [0, 1].

    Args:
        start: Value up to `begin`.
        end: Value from `finish` on.
        begin: Progress at which it leaves `start`, in [0, finish).
        finish: Progress at which it reaches `end`, in (begin, 1].

    Raises:
        ConfigurationError: If `begin` and `finish` are out of order or range, or a value is not finite.

    Example:
        >>> Linear(0.8, 0.0)(progress=0.25)
        0.6000000000000001
    """

    def _shape(self, share: float) -> float:
        return share


class Cosine(_Ramp):
    r"""Half a cosine, :math:`v(t) = v_0 + (v_1 - v_0) \frac{1 - \cos \pi s}{2}`: slow at both ends.

    Args:
        start: Value up to `begin`.
        end: Value from `finish` on.
        begin: Progress at which it leaves `start`, in [0, finish).
        finish: Progress at which it reaches `end`, in (begin, 1].

    Raises:
        ConfigurationError: If `begin` and `finish` are out of order or range, or a value is not finite.

    Example:
        >>> Cosine(1.0, 0.0)(progress=0.5)
        0.5
    """

    def _shape(self, share: float) -> float:
        return (1 - cos(pi * share)) / 2


class TopDown(Schedule):
    r"""A value that changes layer by layer, from the top of the model to the bottom.

    A layer at height :math:`h` reaches `end` at progress :math:`1 - h`, after a linear change from `start` over a share
    :math:`w` of the training: the head has reached it at the first step, the embeddings at the last. Used as the rate
    of `GradDrop`, this is sparse gradual unfreezing.

    Args:
        start: Value of a layer before its change.
        end: Value of a layer after its change; the head always has it.
        width: Share of the training that the change of one layer takes, :math:`w`, in (0, 1].

    Raises:
        ConfigurationError: If `width` is out of range or a value is not finite.

    Example:
        >>> rate = TopDown(1.0, 0.0, width=0.5)
        >>> [rate(progress=0.5, height=h) for h in (0.0, 0.25, 0.5, 1.0)]
        [1.0, 0.5, 0.0, 0.0]
    """

    needs_height = True

    def __init__(self, start: float = 1.0, end: float = 0.0, *, width: float = 0.5) -> None:
        if not (_is_number(width) and 0 < width <= 1):
            raise ConfigurationError(f"Parameter `width` should be in (0, 1]. Found `width = {width}`.")
        _require_finite(start=start, end=end)
        self.start, self.end, self.width = float(start), float(end), width

    def __call__(self, progress: float, height: float = 1.0) -> float:
        share = min(1.0, max(0.0, 1 - (1 - height - progress) / self.width))
        return _between(self.start, self.end, share)

    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __repr__(self) -> str:
        return f"TopDown({self.start:g}, {self.end:g}, width={self.width:g})"


def _between(start: float, end: float, share: float) -> float:
    """Return the value at a share of the way, clamped to the ends against rounding."""
    value = (1 - share) * start + share * end
    return min(max(value, min(start, end)), max(start, end))


def _as_schedule(parameter: str, value: float | Schedule) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if not _is_number(value):
        raise ConfigurationError(f"Parameter `{parameter}` should be a number or a schedule. Found `{value!r}`.")
    return Constant(value)


def as_rate(parameter: str, value: float | Schedule) -> Schedule:
    """Return a drop rate as a schedule; raise a `ConfigurationError` if it ever leaves [0, 1]."""
    schedule = _as_schedule(parameter, value)
    low, high = schedule.bounds()
    if not 0 <= low <= high <= 1:
        raise ConfigurationError(f"Parameter `{parameter}` should be in [0, 1]. Found `{parameter} = {value}`.")
    return schedule


def as_threshold(parameter: str, value: float | Schedule) -> Schedule:
    """Return a threshold as a schedule; raise a `ConfigurationError` unless it is always positive. Infinity is allowed.

    A schedule that depends on depth is refused. So is a number below the smallest normal float32: rounded to float32,
    it would clip everything to zero.
    """
    schedule = _as_schedule(parameter, value)
    low, high = schedule.bounds()
    if 0 < low < _LEAST:
        raise ConfigurationError(
            f"Parameter `{parameter}` should be at least {_LEAST:.3g}, the smallest normal number of float32. "
            f"Found `{parameter} = {value}`."
        )
    if not 0 < low <= high:
        raise ConfigurationError(f"Parameter `{parameter}` should be positive. Found `{parameter} = {value}`.")
    refuse_depth(parameter, schedule)
    return schedule


def refuse_depth(parameter: str, schedule: Schedule) -> None:
    """Raise a `ConfigurationError` if a schedule depends on depth where the value must be the same at every depth."""
    if schedule.needs_height:
        raise ConfigurationError(
            f"Parameter `{parameter}` should be the same at every depth. Found `{parameter} = {schedule}`."
        )


def _is_number(value: object) -> bool:
    """Return whether a value is a number that a float can hold."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:
        return False


def _require_finite(**values: float) -> None:
    for name, value in values.items():
        if not _is_number(value) or not isfinite(value):
            raise ConfigurationError(f"Parameter `{name}` should be finite. Found `{name} = {value}`.")
