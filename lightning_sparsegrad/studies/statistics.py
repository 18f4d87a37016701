"""Intervals and tests of a study; the tests are scipy's."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan, nan

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
LEVEL = 0.95
ALPHA = 0.05
_RESAMPLES = 9_999


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, whose ends are undefined for fewer than two values.

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
        """Whether zero lies outside; not where the ends are undefined."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    r"""Return the mean with a bootstrap-t interval.

    Each resample's mean is studentised by its own standard error, which holds the stated rate where the percentiles of
    the mean itself are too narrow: for a few runs.

    Args:
        values: One or more.
        level: How often the interval should hold the mean of what the values are drawn from.

    References:
        Bradley Efron, Robert J. Tibshirani. An Introduction to the Bootstrap. 1993. Section 12.5.
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean)
    if np.ptp(array) == 0:
        return Interval(mean, mean, mean)
    draws = _resamples(array)
    errors = draws.std(axis=1, ddof=1) / np.sqrt(len(array))
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = (draws.mean(axis=1) - mean) / errors
    # a resample of one value alone says that the error is large, not that it is nothing
    studentised = np.where(errors > 0, studentised, np.sign(draws.mean(axis=1) - mean) * inf)
    low, high = np.quantile(studentised, [(1 + level) / 2, (1 - level) / 2], method="nearest")
    error = array.std(ddof=1) / np.sqrt(len(array))
    return Interval(mean, mean - low * error, mean - high * error)


def deviation_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    r"""Return the standard deviation (of n - 1) with a bootstrap-t interval on its logarithm.

    The standard error of :math:`\log s` is :math:`\frac{1}{2} \sqrt{k / n - (n - 3) / (n (n - 1))}` with the sample's
    kurtosis :math:`k`. Of a few values a standard deviation is poorly known, and of a mixture of runs that failed and
    runs that did not, worse: the measured rates are in the tests.

    Args:
        values: One or more.
        level: How often the interval should hold the standard deviation of what the values are drawn from.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return Interval(nan)
    deviation = float(array.std(ddof=1))
    if np.ptp(array) == 0:
        return Interval(deviation, deviation, deviation)
    log, error = _log_deviation(array)
    logs, errors = _log_deviation(_resamples(array))
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = np.where(np.isneginf(logs), -inf, (logs - log) / errors)
    low, high = np.quantile(studentised, [(1 + level) / 2, (1 - level) / 2], method="nearest")
    return Interval(deviation, float(np.exp(log - low * error)), float(np.exp(log - high * error)))


def _log_deviation(values: Array) -> tuple[Array, Array]:
    """Return the logarithm of the standard deviation along the last axis, and its standard error."""
    count = values.shape[-1]
    kurtosis = np.nan_to_num(stats.kurtosis(values, axis=-1, fisher=False), nan=1.0)
    with np.errstate(divide="ignore"):
        log: Array = np.log(values.std(axis=-1, ddof=1))
    error: Array = 0.5 * np.sqrt(np.maximum(kurtosis / count - (count - 3) / (count * (count - 1)), 1e-12))
    return log, error


def test_of_means(differences: Sequence[float]) -> float:
    """Return the two-sided p of the paired permutation test: each difference could as well have the other sign."""
    array = np.asarray(differences, dtype=float)
    if len(array) < 2 or not array.any():
        return nan if len(array) < 2 else 1.0
    return float(
        stats.permutation_test(
            (array,), np.mean, permutation_type="samples", vectorized=True, n_resamples=_RESAMPLES, rng=_generator()
        ).pvalue
    )


def test_of_variances(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the p of the Brown-Forsythe test: Levene's, about the medians."""
    if min(len(values), len(others)) < 3:
        return nan
    if np.ptp(values) == 0 and np.ptp(others) == 0:
        return 1.0
    return float(stats.levene(values, others, center="median").pvalue)


def test_of_failures(failed: Sequence[bool], others: Sequence[bool]) -> float:
    """Return the two-sided p of McNemar's exact test: of the pairs that differ, half should fail on either side."""
    pairs = list(zip(failed, others, strict=True))
    if not pairs:
        return nan
    first = sum(a and not b for a, b in pairs)
    second = sum(b and not a for a, b in pairs)
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0


def corrected(ps: Sequence[float]) -> list[float]:
    """Return p-values by Holm's step-down correction, so that among all of them false alarms stay at the stated rate.

    Undefined ones stay so, and do not count.

    References:
        Sture Holm. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics, 1979.
    """
    order = sorted((place for place, p in enumerate(ps) if not isnan(p)), key=lambda place: ps[place])
    result = list(ps)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[place]))
        result[place] = largest
    return result


def _resamples(array: Array) -> Array:
    draws: Array = array[_generator().integers(len(array), size=(_RESAMPLES, len(array)))]
    return draws


def _generator() -> np.random.Generator:
    """Return the same generator every time: a report is a function of the runs."""
    return np.random.default_rng(0)
