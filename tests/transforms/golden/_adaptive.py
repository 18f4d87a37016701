"""Slow references of adaptive clips: a component after the other, its norm in a Python float, its own memory."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, nan

from tests.layout import Layout
from tests.reference import Entries, Learner, Values, When, norm

SMALLEST, LARGEST = 1.1e-19, 1.8e19  # what float32 can square
FAR, PATIENCE = 1000.0, 16


def teaches(length: float) -> bool:
    """Say whether a norm teaches anything."""
    return isfinite(length) and SMALLEST <= length <= LARGEST


@dataclass
class Memory:
    """What one component has learnt: its norms, oldest first, one number of its strategy, and how long it was far off.

    Args:
        norms: What it has learnt, oldest first.
        number: How many norms it has learnt.
        level: The mean, the smallest norm or the like.
        variance: The variance.
        far: For how many windows in a row its norm has been far from what is typical.
    """

    norms: list[float] = field(default_factory=list)
    number: int = 0
    level: float = nan
    variance: float = nan
    far: int = 0


class AdaptiveClip(Learner):
    """An adaptive clip.

    Args:
        kind: What a component is.
    """

    def __init__(self, kind: str | Mapping[str, str]) -> None:
        self.kind = kind
        self.memories: dict[str, Memory] = {}
        self.thresholds: dict[str, float] = {}  # of the last window
        self.norms: dict[str, float] = {}
        self._seen: dict[
            str, tuple[float, float, set[str]]
        ] = {}  # both norms of it, and the parameters with a gradient
        self.when = When(step=0, epoch=0, total_steps=1, seed=0)

    @abstractmethod
    def threshold(self, memory: Memory, length: float, everything: float) -> float:
        """Return the threshold of a component whose norm is known, as is that of all gradients."""

    @abstractmethod
    def learn(self, memory: Memory, length: float, everything: float) -> None:
        """Learn from a norm."""

    @abstractmethod
    def typical(self, memory: Memory) -> float:
        """Return the norm that is typical of a component; NaN if nothing is."""

    def as_fresh(self, length: float, everything: float) -> float:
        """Return a norm as a component that has learnt nothing would learn it."""
        return length

    def __call__(self, values: Values, when: When, layout: Layout) -> Values:
        changed = {name: list(entries.values) for name, entries in values.items() if entries is not None}
        everything = norm([value for entries in changed.values() for value in entries], 2.0)
        self._seen, self.thresholds, self.norms, self.when = {}, {}, {}, when
        for unit, pieces in layout.units("all" if self.kind == "global" else self.kind).items():
            inside = [(name, index) for name, indices in pieces if name in changed for index in indices]
            present = {name for name, _ in pieces if name in changed}
            if not present:
                continue
            length = norm([changed[name][index] for name, index in inside], 2.0)
            threshold = self.threshold(self.memories.setdefault(unit, Memory()), length, everything)
            self._seen[unit], self.thresholds[unit] = (length, everything, present), threshold
            self.norms[unit] = length
            factor = 1.0 if length <= threshold or threshold == inf else threshold / length
            if factor != 1.0:
                for name, index in inside:
                    changed[name][index] *= factor
        return {name: entries and Entries(entries.shape, changed[name]) for name, entries in values.items()}

    def stepped(self, left: Collection[str] | None = None) -> None:
        for unit, (length, everything, present) in self._seen.items():
            memory, threshold = self.memories[unit], self.thresholds[unit]
            clipped = length if length <= threshold else threshold
            if not teaches(length) or not teaches(clipped) or (left is not None and present.isdisjoint(left)):
                continue
            typical = self.typical(memory)
            above = self.as_fresh(length, everything) > FAR * typical
            memory.far = memory.far + 1 if above or length < typical / FAR else 0
            if memory.far == PATIENCE:
                self.memories[unit] = Memory()
            else:
                self.learn(memory, length, everything)
        self._seen = {}


def percentile(numbers: list[float], share: float) -> float:
    """Return a percentile, interpolated linearly; infinite if there are no numbers."""
    if not numbers:
        return inf
    ordered = sorted(numbers)
    position = share / 100 * (len(ordered) - 1)
    below = min(int(position), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
