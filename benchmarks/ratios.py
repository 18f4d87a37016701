"""Medians, quartiles, and ratios with their targets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles


@dataclass(frozen=True)
class Summary:
    """A number with the quartiles of its samples.

    Args:
        value: The median, or the mean if samples differ by design.
        lower: First quartile.
        upper: Third quartile.
        count: Number of samples.
    """

    value: float
    lower: float
    upper: float
    count: int

    @classmethod
    def of(cls, samples: Iterable[float], *, averaged: bool = False) -> "Summary":
        """Summarise samples by their median, or their mean if `averaged`."""
        values = list(samples)
        lower, _, upper = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(fmean(values) if averaged else median(values), lower, upper, len(values))


@dataclass(frozen=True)
class Ratio:
    """A ratio with its upper limit.

    Args:
        name: Its name, "numerator / denominator".
        summary: Its value and quartiles.
        at_most: The target; `None` for a ratio that is only reported.
        aim: A stricter value to work towards.
        unit: Unit of the value, if it has one.
    """

    name: str
    summary: Summary
    at_most: float | None = None
    aim: float | None = None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """`"reached"` or `"missed"`; empty without a target."""
        if self.at_most is None:
            return ""
        return "reached" if self.summary.value <= self.at_most else "missed"  # an undefined value misses


def divide(
    name: str,
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    at_most: float | None = None,
    aim: float | None = None,
    averaged: bool = False,
) -> Ratio:
    """Divide repeat by repeat, then take the median of the ratios.

    Args:
        name: Its name, "numerator / denominator".
        numerators: One number per repeat.
        denominators: One number per repeat, of the same repeats.
        at_most: The target.
        aim: A stricter value to work towards.
        averaged: Take the mean of the ratios instead, if the work differs between repeats.
    """
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    return Ratio(name, Summary.of(ratios, averaged=averaged), at_most, aim)
