"""A slow, obvious reference of every strategy: Python floats, one entry after the other, over parameters by name.

It shares `hash_index` and `derive_key` with the library, for they define which entries a seed drops, and nothing else.
What the library finds in a module tree (depths, fused projections) is written down by hand in a `Layout`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf, isfinite, isnan, nan, prod, sqrt

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
    """Where training stands."""

    step: int
    epoch: int
    total_steps: int
    seed: int

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


def rate_of(rate: Rate, when: When, name: str, layout: Layout) -> float:
    """Return the rate of a parameter."""
    return rate(when.progress, max(layout.depths[name]) / layout.head) if callable(rate) else rate


def _falls(key: int, index: int, rate: float) -> bool:
    """Say whether a unit is dropped."""
    return hash_index(key, index) < round(rate * 2**32)


def _is_one(rate: float) -> bool:
    return round(rate * 2**32) == 2**32


# ---------------------------------------------------------------- masks
def keep_all(values: Values, when: When, layout: Layout) -> Values:
    return values


def drop_entries(
    rate: Rate,
    *,
    seed: int | None = None,
    every: int | str | None = 1,
    by_row: bool = False,
    rescale: bool = False,
    leave: Collection[str] = (),
) -> Reference:
    """Return GradDrop of entries or rows; the parameters in `leave` are left alone."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        done: Values = {}
        for name, entries in values.items():
            share = rate_of(rate, when, name, layout)
            if entries is None or name in leave or share == 0:
                done[name] = entries
                continue
            if _is_one(share):
                done[name] = None
                continue
            key = derive_key("GradDrop", when.seed if seed is None else seed, when.index(every), name)
            row = max(prod(entries.shape[1:]), 1) if by_row else 1
            changed = []
            for index, value in enumerate(entries.values):
                factor = 1 / (1 - share) if rescale else 1.0
                changed.append(value * 0.0 if _falls(key, index // row, share) else value * factor)
            done[name] = Entries(entries.shape, changed)
        return done

    return step


def _draw(rates: Mapping[str, float], key: tuple[str | int, ...], trains: Callable[[set[str]], bool]) -> set[str]:
    for attempt in range(10_000):
        dropped = {unit for unit, rate in rates.items() if _falls(derive_key(*key, attempt, unit), 0, rate)}
        if trains(dropped) or all(rate in {0, 1} for rate in rates.values()):
            return dropped
    raise AssertionError(f"no draw trains anything: {rates}")


def drop_units(
    rate: Rate,
    kind: str | Mapping[str, str],
    *,
    seed: int | None = None,
    every: int | str | None = 1,
    rescale: bool = False,
    leave: Collection[str] = (),
) -> Reference:
    """Return GradDrop of tensors or components; the parameters in `leave` are left alone."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        units = {
            unit: touched
            for unit, pieces in layout.units(kind).items()
            if (touched := [(name, indices) for name, indices in pieces if name not in leave])
        }
        rates = {
            unit: min(rate_of(rate, when, name, layout) for name, _ in pieces)  #
            for unit, pieces in units.items()
        }
        lost: dict[str, set[int]] = {}

        def lose(dropped: set[str]) -> bool:
            lost.clear()
            for unit in dropped:
                for name, indices in units[unit]:
                    lost.setdefault(name, set()).update(indices)
            return any(not whole(name, dropped) for name in layout.shapes if name not in layout.frozen)

        def whole(name: str, dropped: set[str]) -> bool:
            return name not in leave and all(
                unit in dropped for unit, pieces in units.items() for piece, _ in pieces if piece == name
            )

        key = "GradDrop", when.seed if seed is None else seed, when.index(every)
        dropped = _draw(rates, key, lose)
        done: Values = {}
        for name, entries in values.items():
            if entries is None or whole(name, dropped):
                done[name] = None
                continue
            changed = list(entries.values)
            for unit, pieces in units.items():
                for piece, indices in pieces:
                    if piece == name:
                        factor = 0.0 if unit in dropped else 1 / (1 - rates[unit]) if rescale else 1.0
                        for index in indices:
                            changed[index] *= factor
            done[name] = Entries(entries.shape, changed)
        return done

    return step


def _without(values: Values, layout: Layout, depths: set[int]) -> Values:
    return {name: None if layout.depths[name] <= depths else entries for name, entries in values.items()}


def drop_layers(rate: Rate, *, seed: int | None = None, every: int | str | None = 1) -> Reference:
    """Return LayerGradDrop."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        names = layout.layers
        rates = {
            name: rate(when.progress, depth / layout.head) if callable(rate) else rate
            for depth, name in enumerate(names)
        }
        key = "LayerGradDrop", when.seed if seed is None else seed, when.index(every)
        dropped = _draw(rates, key, lambda _: True)  # the head trains
        return _without(values, layout, {names.index(name) for name in dropped})

    return step


def unfreeze(joined: Callable[[When], float]) -> Reference:
    """Return GradualUnfreezing with as many layers as a function says, the top ones."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        return _without(values, layout, set(range(layout.head - int(min(joined(when), layout.head)))))

    return step


def head_only(values: Values, when: When, layout: Layout) -> Values:
    return _without(values, layout, set(range(layout.head)))


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
            return _at(threshold, when)
    return _at(max_norm, when)


def _at(threshold: Rate, when: When) -> float:
    return threshold(when.progress, 1.0) if callable(threshold) else threshold


def norm(values: Sequence[float], norm_type: float) -> float:
    """Return the norm of some entries, undefined if one of them is."""
    if any(isnan(value) for value in values):
        return nan
    if norm_type == inf:
        return max((abs(value) for value in values), default=0.0)
    return sqrt(sum(value * value for value in values))


def clip_values(max_value: Rate) -> Reference:
    """Return ValueClip."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        bound = _at(max_value, when)
        if bound == inf:
            return values
        return {
            name: entries
            and Entries(entries.shape, [min(max(v, -bound), bound) if isfinite(v) else nan for v in entries.values])
            for name, entries in values.items()
        }

    return step


def in_order(*steps: Reference) -> Reference:
    """Return what a chain of strategies does."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        for each in steps:
            values = each(values, when, layout)
        return values

    return step
