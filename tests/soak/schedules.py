"""Random rates and thresholds: the library's, and the same as a number or a function."""

from math import cos, pi
from random import Random

from lightning_sparsegrad import Constant, Cosine, Linear, Schedule, TopDown
from tests.reference import Rate

Both = tuple[float | Schedule, Rate]


def draw_schedule(rng: Random, low: float, high: float, *, by_depth: bool = False, ends: bool = False) -> Both:
    """Draw a number or a schedule between two bounds.

    Args:
        rng: Where to draw from.
        low: The lower bound.
        high: The upper bound.
        by_depth: Whether it may differ between layers.
        ends: Whether the bounds themselves are drawn often.
    """

    def value() -> float:
        return rng.choice([low, high]) if ends and rng.random() < 0.25 else rng.uniform(low, high)

    kind = rng.choice(["number"] * 4 + ["Constant", "Linear", "Cosine"] + ["TopDown"] * by_depth)
    start, end = value(), value()
    if kind == "number":
        return start, start
    if kind == "Constant":
        return Constant(start), start
    if kind == "TopDown":
        width = rng.uniform(0.05, 1.0)
        return TopDown(start, end, width=width), lambda t, h: _between(start, end, 1 - (1 - h - t) / width)
    begin, finish = (0.0, 1.0) if rng.random() < 0.5 else (rng.uniform(0, 0.4), rng.uniform(0.5, 1.0))
    if kind == "Linear":
        return (
            Linear(start, end, begin=begin, finish=finish),
            lambda t, h: _between(start, end, (t - begin) / (finish - begin)),
        )
    return (
        Cosine(start, end, begin=begin, finish=finish),
        lambda t, h: _between(start, end, (1 - cos(pi * _inside((t - begin) / (finish - begin)))) / 2),
    )


def _inside(share: float) -> float:
    return min(1.0, max(0.0, share))


def _between(start: float, end: float, share: float) -> float:
    return (1 - _inside(share)) * start + _inside(share) * end
