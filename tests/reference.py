"""Helpers for slow, obvious references of strategies: Python floats, one entry after the other, by parameter name.

The reference of a strategy is in its file in `tests/transforms/golden`.

It shares `hash_index` and `derive_key` with the library, for they define which entries a seed drops, and nothing else.
What the library finds in a module tree (depths, fused projections) is written down by hand in a `Layout`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf, isnan, nan, prod, sqrt

from lightning_sparsegrad.functional import derive_key, hash_index
from tests.layout import Layout, Pieces

Rate = float | Callable[[float, float], float]  # a number, or a function of progress and height


@dataclass(frozen=True)
class Entries:
    """One gradient: its shape, and its entries in row-major order."""

    shape: tuple[int, ...]
    values: list[float]

    def __post_init__(self) -> None:
        assert len(self.values) == prod(self.shape)


Values = dict[str, Entries | None]  # every parameter of the model; `None` where there is no gradient


@dataclass(frozen=True)
class When:
    """The position in training.

    Args:
        step: Optimizer steps done before.
        epoch: Epochs done before.
        total_steps: Steps of the whole training.
        seed: Seed of the run.
        scaled: Whether a loss scale is on the gradients, so that infinite ones skip the step.
    """

    step: int
    epoch: int
    total_steps: int
    seed: int
    scaled: bool = False

    @property
    def progress(self) -> float:
        return min(1.0, self.step / (self.total_steps - 1))

    def index(self, every: int | str | None) -> int:
        """Return the number of draws before this step's."""
        if every is None:
            return 0
        if every == "epoch":
            return self.epoch
        assert isinstance(every, int)
        return self.step // every


Reference = Callable[[Values, When, Layout], Values]


class Learner(ABC):
    """A reference with a state: a window teaches it something once its step has happened, else nothing."""

    @abstractmethod
    def __call__(self, values: Values, when: When, layout: Layout) -> Values:
        """Return the effect on the gradients of a window, and remember what the window would teach."""

    @abstractmethod
    def stepped(self, left: Collection[str] | None = None) -> None:
        """Learn what the last window taught, unless it has been learnt already.

        Args:
            left: The parameters with a gradient in the step, of whose alone something is learnt; all by default.
        """


def stepped(does: Reference, left: Collection[str] | None = None) -> None:
    """Tell a reference that the step of its last window has happened, with gradients of some parameters."""
    if isinstance(does, Learner):
        does.stepped(left)


class Holder(ABC):
    """A reference that zeroes gradients of some entries and restores these entries after the step."""

    @abstractmethod
    def __call__(self, values: Values, when: When, layout: Layout) -> Values:
        """Return the effect on the gradients of a window."""

    @abstractmethod
    def frozen(self, layout: Layout) -> dict[str, set[int]]:
        """Return the positions of the frozen entries, in row-major order, by parameter; empty before they are known."""


def frozen_entries(does: Reference, layout: Layout) -> dict[str, set[int]]:
    """Return the positions of the entries that a reference restores after each step, by parameter."""
    if isinstance(does, InOrder):
        together: dict[str, set[int]] = {}
        for each in does.members:
            for name, positions in frozen_entries(each, layout).items():
                together[name] = together.get(name, set()) | positions
        return together
    return does.frozen(layout) if isinstance(does, Holder) else {}


def hold(values: Values, frozen: Mapping[str, Collection[int]]) -> Values:
    """Multiply frozen entries by 0, so that overflows stay visible; drop tensors whose entries are all frozen."""
    held: Values = dict(values)
    for name, positions in frozen.items():
        entries = values[name]
        if entries is None or len(positions) == len(entries.values):
            held[name] = None
        else:
            changed = [value * 0.0 if i in positions else value for i, value in enumerate(entries.values)]
            held[name] = Entries(entries.shape, changed)
    return held


def rate_of(rate: Rate, when: When, name: str, layout: Layout) -> float:
    """Return the rate of a parameter."""
    return rate(when.progress, max(layout.depths[name]) / layout.head) if callable(rate) else rate


def falls(key: int, index: int, rate: float) -> bool:
    """Say whether a unit is dropped."""
    return hash_index(key, index) < round(rate * 2**32)


# ---------------------------------------------------------------- masks
def keep_all(values: Values, when: When, layout: Layout) -> Values:
    return values


def draw(rates: Mapping[str, float], key: tuple[str | int, ...], trains: Callable[[set[str]], bool]) -> set[str]:
    for attempt in range(10_000):
        dropped = {unit for unit, rate in rates.items() if falls(derive_key(*key, attempt, unit), 0, rate)}
        if trains(dropped) or all(rate in {0, 1} for rate in rates.values()):
            return dropped
    raise AssertionError(f"no draw trains anything: {rates}")


def without(values: Values, layout: Layout, depths: set[int]) -> Values:
    return {name: None if layout.depths[name] <= depths else entries for name, entries in values.items()}


def training_depths(layout: Layout) -> list[int]:
    """Return the depths in which something trains, bottom first: the topmost is the head, or takes its role."""
    return sorted({depth for name, depths in layout.depths.items() if name not in layout.frozen for depth in depths})


# ---------------------------------------------------------------- clips
def clip_norms(
    max_norm: Rate,
    kind: str | Mapping[str, str],
    *,
    overrides: Mapping[str, Rate] = {},
    norm_type: float = 2.0,
) -> Reference:
    """Return ComponentNormClip, with thresholds of their own for the units that the globs in `overrides` match."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        changed = {name: list(entries.values) for name, entries in values.items() if entries is not None}
        for unit, pieces in layout.units(kind).items():
            threshold = threshold_of(unit, pieces, max_norm, overrides, when, layout)
            inside = [(name, index) for name, indices in pieces if name in changed for index in indices]
            if threshold == inf or not inside:
                continue
            factor = threshold / (norm([changed[name][index] for name, index in inside], norm_type) + 1e-6)
            if not factor >= 1:  # also where it is undefined
                for name, index in inside:
                    changed[name][index] *= factor
        return {name: entries and Entries(entries.shape, changed[name]) for name, entries in values.items()}

    return step


def threshold_of(
    unit: str, pieces: Pieces, max_norm: Rate, overrides: Mapping[str, Rate], when: When, layout: Layout
) -> float:
    """Return the threshold of a unit: that of the first glob which matches its name, or each of its parameters."""
    for glob, threshold in overrides.items():
        if fnmatchcase(unit, glob) or all(layout.matches(name, glob) for name, _ in pieces):
            return threshold_at(threshold, when)
    return threshold_at(max_norm, when)


def threshold_at(threshold: Rate, when: When) -> float:
    """Return a threshold, a number or a function of progress."""
    return threshold(when.progress, 1.0) if callable(threshold) else threshold


def norm(values: Sequence[float], norm_type: float) -> float:
    """Return the norm of some entries, undefined if one of them is."""
    if any(isnan(value) for value in values):
        return nan
    if norm_type == inf:
        return max((abs(value) for value in values), default=0.0)
    return sqrt(sum(value * value for value in values))


class InOrder(Learner):
    """The effect of a chain of strategies, in order."""

    def __init__(self, *members: Reference) -> None:
        self.members = members
        self._left: Collection[str] = ()

    def __call__(self, values: Values, when: When, layout: Layout) -> Values:
        for each in self.members:
            values = each(values, when, layout)
        self._left = {name for name, entries in values.items() if entries is not None}
        return values

    def stepped(self, left: Collection[str] | None = None) -> None:
        for each in self.members:
            stepped(each, self._left if left is None else left)
