"""Confidence intervals and statistical tests of a study; the tests are scipy's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, isnan, log2, nan
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
Statistic = Callable[..., Any]
LEVEL = 0.95
ALPHA = 0.05
_LEAST_COUNT = 6  # five values lie all on one side of the true median more often than in 5% of samples
_LEAST_TAIL = 1e-9  # no number of resamples can tell it from zero
_RESAMPLES = 9_999  # drawn with a fixed seed: the same runs give the same report


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, whose ends are undefined for fewer than six values.

    Args:
        value: The estimate.
        low: The lower end.
        high: The upper end.
    """

    value: float
    low: float = nan
    high: float = nan

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; false if the ends are undefined."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """Return the mean with its bootstrap interval, see `bootstrap_interval`.

    Args:
        values: One or more.
        level: The probability that the interval contains the true mean.
    """
    return bootstrap_interval(values, np.mean, level=level)


def deviation_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """Return the standard deviation (of n - 1) with its bootstrap interval, see `bootstrap_interval`.

    A standard deviation of few values is poorly known: for 20 normal values, the 95% interval contains the true one in
    9 of 10 samples.

    Args:
        values: One or more.
        level: The probability that the interval contains the true standard deviation.
    """
    return Interval(nan) if len(values) < 2 else bootstrap_interval(values, _deviation, level=level)


def bootstrap_interval(values: Sequence[float], statistic: Statistic, *, level: float = LEVEL) -> Interval:
    r"""Return a statistic with its bootstrap interval, bias-corrected, accelerated, and widened for small samples.

    The variance of a bootstrap of :math:`n` values is too small by the factor :math:`(n - 1) / n`, and its tails are
    normal. Therefore tails of :math:`\Phi(-\sqrt{n / (n - 1)}\, t_{n - 1})` are cut off instead of 2.5%, where
    :math:`t` is the quantile of Student's distribution. For means this gives the stated coverage from about eight
    values on.

    Args:
        values: One or more. The ends are undefined for fewer than six values, and if leaving out any one value gives
            the same statistic.
        statistic: A function of an array along an axis.
        level: The probability that the interval contains the true statistic.

    References:
        Bradley Efron. Better Bootstrap Confidence Intervals. JASA, 1987. Tim C. Hesterberg. What Teachers Should Know
        About the Bootstrap. The American Statistician, 2015. https://arxiv.org/abs/1411.5279, section 5.3 (the
        expanded percentile interval).
    """
    array = np.asarray(values, dtype=float)
    value, count = float(statistic(array, axis=-1)), len(array)
    if count < _LEAST_COUNT:
        return Interval(value)
    if np.ptp(array) == 0:
        return Interval(value, value, value)
    tail = stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1))
    tail = max(tail, _LEAST_TAIL)
    with catch_warnings():
        simplefilter("ignore")  # scipy warns if leaving out any one value gives the same statistic
        bootstrap = stats.bootstrap(
            (array,),
            statistic,
            confidence_level=1 - 2 * tail,
            n_resamples=_RESAMPLES,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(0),
        )
    low, high = bootstrap.confidence_interval
    return Interval(value, float(low), float(high))


def _deviation(values: Array, axis: int = -1) -> Array:
    deviation: Array = values.std(axis=axis, ddof=1)
    return deviation


def pairs_needed(tests: int) -> int:
    r"""Return the least number of pairs with which the permutation test can be significant, corrected for `tests`.

    For :math:`n` pairs its smallest possible p is :math:`2^{1 - n}`, whatever the differences are.
    """
    return ceil(log2(2 * tests / ALPHA))


def p_of_means(differences: Sequence[float]) -> float:
    """Return the two-sided p of the paired permutation test, which flips the signs of the differences."""
    array = np.asarray(differences, dtype=float)
    if len(array) < 2 or not array.any():
        return nan if len(array) < 2 else 1.0
    return float(
        stats.permutation_test(
            (array,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=_RESAMPLES,
            rng=np.random.default_rng(0),
        ).pvalue
    )


def p_of_variances(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the p of the Brown-Forsythe test, which is Levene's about the medians."""
    if min(len(values), len(others)) < 3:
        return nan
    if np.ptp(values) == 0 and np.ptp(others) == 0:
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):  # if the distances from the median do not vary
        return float(stats.levene(values, others, center="median").pvalue)


def spread(values: Sequence[float]) -> float:
    """Return the mean distance from the median; undefined for no values."""
    return float(np.abs(np.subtract(values, np.median(values))).mean()) if values else nan


def p_of_failures(failed: Sequence[bool], others: Sequence[bool]) -> float:
    """Return the two-sided p of McNemar's exact test, under which half of the differing pairs fail on each side."""
    pairs = list(zip(failed, others, strict=True))
    if not pairs:
        return nan
    first = sum(a and not b for a, b in pairs)
    second = sum(b and not a for a, b in pairs)
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0


def corrected(ps: Sequence[float]) -> list[float]:
    """Correct p-values by Holm's step-down procedure, which bounds the rate of any false positive among them.

    Undefined p-values stay undefined and do not count.

    References:
        Sture Holm. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics, 1979.
    """
    order = sorted((index for index, p in enumerate(ps) if not isnan(p)), key=lambda index: ps[index])
    result = list(ps)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[index]))
        result[index] = largest
    return result
