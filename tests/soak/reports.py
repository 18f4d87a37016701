"""The expected statistics of a strategy, counted one by one: for every name a lowest and a highest value."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf, isfinite, nan, prod

from tests.layout import Layout
from tests.reference import Entries, Holder, Rate, Reference, Values, When, norm, rate_of, threshold_of
from tests.transforms.golden._adaptive import AdaptiveClip
from tests.transforms.golden.spike_skip import LeaveOutSpikes

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Applied:
    """A strategy in one window.

    Args:
        before: The gradients it was given, those that were not computed included.
        after: What it makes of them.
        computed: Names of what was computed.
        when: Where training stands.
        layout: The model.
    """

    before: Values
    after: Values
    computed: Collection[str]
    when: When
    layout: Layout

    def given(self) -> dict[str, Entries]:
        """Return the gradients that were there."""
        return {name: entries for name, entries in self.before.items() if entries is not None}

    def read(self) -> dict[str, Entries]:
        """Return the gradients that were there and computed."""
        return {name: entries for name, entries in self.given().items() if name in self.computed}


Report = Callable[[Applied], Ranges]


def nothing(applied: Applied) -> Ranges:
    return {}


def ones(values: Values) -> Values:
    return {name: entries and Entries(entries.shape, [1.0] * len(entries.values)) for name, entries in values.items()}


def _exactly(value: float) -> tuple[float, float]:
    return value - 1e-6, value + 1e-6


def _nearly(value: float) -> tuple[float, float]:
    return value * (1 - 1e-4), value * (1 + 1e-4)


def kept_share(does: Reference, rate: Rate, leave: Collection[str]) -> Report:
    """Count what a mask keeps of ones."""

    def report(applied: Applied) -> Ranges:
        scope = {name: entries for name, entries in applied.given().items() if name not in leave}
        if not any(rate_of(rate, applied.when, name, applied.layout) for name in scope):
            return {"kept": _exactly(1)}
        masks = does(ones(applied.before), applied.when, applied.layout)
        seen = {name: masks[name] for name in scope if name in applied.computed or masks[name] is None}
        total = sum(prod(applied.layout.shapes[name]) for name in seen)
        kept = sum(value != 0 for mask in seen.values() if mask is not None for value in mask.values)
        return {"kept": _exactly(kept / total if total else 1)}

    return report


@dataclass(frozen=True)
class HeldShare:
    """The statistics of a strategy that freezes entries, from its reference."""

    does: Holder

    def __call__(self, applied: Applied) -> Ranges:
        frozen = self.does.frozen(applied.layout)
        total = sum(prod(applied.layout.shapes[name]) for name in frozen)
        return {"kept": _exactly(1 - sum(map(len, frozen.values())) / total if total else 1)}


def kept_layers(applied: Applied) -> Ranges:
    total = sum(len(entries.values) for entries in applied.given().values())
    kept = sum(len(entries.values) for entries in applied.after.values() if entries is not None)
    return {"kept": _exactly(kept / total if total else 1)}


def clipped_norms(
    max_norm: Rate, kind: str | Mapping[str, str], overrides: Mapping[str, Rate], norm_type: float
) -> Report:
    """Take the norms of all components."""

    def report(applied: Applied) -> Ranges:
        read, ranges, over, close = applied.read(), Ranges(), 0, 0
        for unit, pieces in applied.layout.units(kind).items():
            threshold = threshold_of(unit, pieces, max_norm, overrides, applied.when, applied.layout)
            inside = [read[name].values[index] for name, indices in pieces if name in read for index in indices]
            if threshold == inf or not any(name in read for name, _ in pieces):
                continue
            size = norm(inside, norm_type)
            factor = threshold / (size + 1e-6)
            over += not factor >= 1
            close += abs(factor - 1) < 1e-5
            ranges[f"norm_before/{unit}"] = (size * (1 - 1e-4), size * (1 + 1e-4))
            ranges[f"norm_after/{unit}"] = (0, threshold * (1 + 1e-5)) if isfinite(size) else (nan, nan)
        count = max(len(ranges) // 2, 1)
        ranges["clipped"] = (over - close) / count - 1e-6, (over + close) / count + 1e-6
        return ranges

    return report


@dataclass(frozen=True)
class LearntNorms:
    """The statistics of a clip that learns, from its reference."""

    does: AdaptiveClip

    def __call__(self, applied: Applied) -> Ranges:
        read, ranges, over, close, count = applied.read(), Ranges(), 0, 0, 0
        for unit, pieces in applied.layout.units("all" if self.does.kind == "global" else self.does.kind).items():
            if not any(name in read for name, _ in pieces):
                continue
            size, threshold = self.does.norms[unit], self.does.thresholds[unit]
            factor = 1.0 if size <= threshold else threshold / size if size else nan
            count += 1
            over += not factor >= 1
            close += abs(factor - 1) < 1e-5
            ranges[f"norm_before/{unit}"] = _nearly(size)
            ranges[f"norm_after/{unit}"] = _nearly(size * factor)
            ranges[f"threshold/{unit}"] = _nearly(threshold)
        ranges["clipped"] = (over - close) / max(count, 1) - 1e-6, (over + close) / max(count, 1) + 1e-6
        return ranges


@dataclass(frozen=True)
class Spikes:
    """The statistics of SpikeSkip, from its reference."""

    does: LeaveOutSpikes

    def __call__(self, applied: Applied) -> Ranges:
        measured = {name: _nearly(value) for name, value in self.does.measured.items()}
        return {"spikes": _exactly(self.does.spikes), **measured}


def clipped_values(max_value: Rate) -> Report:
    """Count the entries beyond a bound."""

    def report(applied: Applied) -> Ranges:
        bound = max_value(applied.when.progress, 1.0) if callable(max_value) else max_value
        values = [value for entries in applied.read().values() for value in entries.values]
        near = 0.01 * bound + 2e-7 if bound < inf else 0  # a bound is rounded to the dtype of the gradient
        beyond = [value for value in values if bound < inf and not abs(value) <= bound]
        close = sum(abs(abs(value) - bound) <= near for value in values)
        total = max(len(values), 1)
        return {"clipped": ((len(beyond) - close) / total - 1e-6, (len(beyond) + close) / total + 1e-6)}

    return report


def merged(reports: Mapping[str, Ranges]) -> Ranges:
    """Return the ranges of a chain: what several parts report is preceded by their names."""
    counts = Counter(key for ranges in reports.values() for key in ranges)
    return {
        key if counts[key] == 1 else f"{name}/{key}": value
        for name, ranges in reports.items()
        for key, value in ranges.items()
    }
