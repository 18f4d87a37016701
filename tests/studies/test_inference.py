"""Intervals and tests of a study against scipy, against hand calculations, and on simulated arms with known effects."""

from collections.abc import Callable
from itertools import product
from math import isnan, nan

import numpy as np
import pytest
from scipy import stats

from lightning_sparsegrad.studies import _inference as statistics
from lightning_sparsegrad.studies._inference import (
    Interval,
    corrected,
    deviation_interval,
    mean_interval,
    p_of_failures,
    p_of_means,
    p_of_variances,
    pairs_needed,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
NORMAL: Draw = lambda generator, count: generator.normal(0, 1, count)  # noqa: E731
SKEWED: Draw = lambda generator, count: generator.exponential(1, count) - 1  # noqa: E731


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw fewer resamples in tests that repeat them many times."""
    monkeypatch.setattr(statistics, "_RESAMPLES", 999)


@pytest.mark.usefixtures("few_resamples")
def test_intervals_cover_roughly() -> None:
    """A fast version of the simulations below, with few samples."""
    samples = [NORMAL(np.random.default_rng(seed), 20).tolist() for seed in range(60)]
    held = [(mean_interval(each), deviation_interval(each)) for each in samples]
    assert 0.88 <= np.mean([mean.low <= 0 <= mean.high for mean, _ in held]) < 1
    assert 0.8 <= np.mean([deviation.low <= 1 <= deviation.high for _, deviation in held]) < 1
    narrow = [mean_interval(each, level=0.6) for each in samples]
    assert 0.45 <= np.mean([interval.low <= 0 <= interval.high for interval in narrow]) <= 0.75


@pytest.mark.long
@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("draw", "count", "least"),
    [(NORMAL, 6, 0.9), (NORMAL, 8, 0.91), (NORMAL, 20, 0.925), (SKEWED, 8, 0.87), (SKEWED, 20, 0.915)],
)
def test_intervals_of_means_cover_at_the_stated_rate(draw: Draw, count: int, least: float) -> None:
    generator = np.random.default_rng(5)
    held = [mean_interval(draw(generator, count).tolist()) for _ in range(500)]
    assert least <= np.mean([interval.low <= 0 <= interval.high for interval in held]) <= 0.98


@pytest.mark.long
@pytest.mark.usefixtures("few_resamples")
def test_intervals_cover_a_known_effect_at_any_level() -> None:
    generator = np.random.default_rng(6)
    for level in (0.8, 0.95):
        differences = [(NORMAL(generator, 20) + 0.7).tolist() for _ in range(500)]
        held = [mean_interval(values, level=level) for values in differences]
        assert np.mean([interval.low <= 0.7 <= interval.high for interval in held]) == pytest.approx(level, abs=0.035)


@pytest.mark.long
@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(("draw", "count", "least"), [(NORMAL, 20, 0.88), (NORMAL, 40, 0.91), (SKEWED, 40, 0.8)])
def test_intervals_of_deviations_cover_nearly_at_the_stated_rate(draw: Draw, count: int, least: float) -> None:
    generator = np.random.default_rng(7)
    held = [deviation_interval(draw(generator, count).tolist()) for _ in range(500)]
    assert np.mean([interval.low <= 1 <= interval.high for interval in held]) >= least


def test_intervals_of_means_are_near_those_of_the_t_distribution() -> None:
    values = NORMAL(np.random.default_rng(8), 40)
    interval = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    assert (interval.value, interval.low, interval.high) == pytest.approx((values.mean(), low, high), abs=0.05)


def test_intervals_of_runs_of_which_some_failed_stay_within_them() -> None:
    values = [0.5] * 7 + [0.8]
    interval, spread = mean_interval(values), deviation_interval(values)
    assert 0.5 <= interval.low < interval.value < interval.high <= 0.8
    assert 0 <= spread.low < spread.value < spread.high < 0.2


def test_intervals_of_little() -> None:
    for few in ([0.5], [0.5, 0.7], [0.2, 0.5, 0.3], [0.5] * 5):
        assert mean_interval(few).value == pytest.approx(np.mean(few))
        assert isnan(mean_interval(few).low)
        assert isnan(mean_interval(few).high)
        assert not mean_interval(few).excludes_zero
        assert isnan(deviation_interval(few).low)
    assert isnan(deviation_interval([0.5]).value)
    assert deviation_interval([0.5, 0.7]).value == pytest.approx(0.1 * 2**0.5)
    assert mean_interval([0.5] * 6) == Interval(0.5, 0.5, 0.5)
    assert mean_interval([0.5] * 6).excludes_zero
    assert not mean_interval([0.0] * 6).excludes_zero
    assert deviation_interval([0.5] * 6) == Interval(0.0, 0.0, 0.0)
    assert mean_interval([0.2, 0.5, 0.3, 0.4, 0.6, 0.5]).excludes_zero
    assert isnan(deviation_interval([0.5] * 4 + [0.6] * 4).low)


def test_the_permutation_test_is_exact_for_a_few() -> None:
    differences = [0.3, -0.1, 0.4, 0.25, 0.05]
    flipped = [
        abs(np.mean([s * d for s, d in zip(signs, differences, strict=True)])) for signs in product((1, -1), repeat=5)
    ]
    expected = np.mean([value >= np.mean(differences) - 1e-12 for value in flipped])
    assert p_of_means(differences) == pytest.approx(expected)
    assert p_of_means([-d for d in differences]) == pytest.approx(expected)
    assert p_of_means([0.0, 0.0, 0.0]) == 1
    assert isnan(p_of_means([0.2]))


def test_so_many_pairs_are_just_enough_to_find_anything(subtests: pytest.Subtests) -> None:
    def least(count: int, tests: int) -> float:
        return corrected([p_of_means([1.0] * count)] * tests)[0]

    for tests in (1, 2, 7, 10, 40):
        with subtests.test(tests=tests):
            needed = pairs_needed(tests)
            assert least(needed, tests) < statistics.ALPHA <= least(needed - 1, tests)


def test_the_p_of_variances_is_scipys() -> None:
    generator = np.random.default_rng(9)
    first, second = NORMAL(generator, 20).tolist(), (3 * NORMAL(generator, 20)).tolist()
    assert p_of_variances(first, second) == stats.levene(first, second, center="median").pvalue < 0.01
    assert p_of_variances([1.0] * 5, [2.0] * 5) == 1
    assert isnan(p_of_variances([1.0, 2.0], second))


def test_the_p_of_failures_counts_pairs_that_differ() -> None:
    first = [False] * 10 + [True] * 2
    second = [True] * 8 + [False] * 2 + [True, False]
    assert p_of_failures(first, second) == pytest.approx(stats.binomtest(1, 9).pvalue)
    assert p_of_failures([True] * 4, [True] * 4) == 1
    assert isnan(p_of_failures([], []))


def test_holm_corrects_step_by_step() -> None:
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.5, 0.9]) == [1.0, 1.0]
    assert corrected([0.02, nan])[0] == 0.02
    assert isnan(corrected([0.02, nan])[1])
    assert corrected([]) == []


@pytest.mark.long
@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("arms", [1, 6])
def test_false_alarms_stay_at_the_stated_rate(arms: int) -> None:
    generator = np.random.default_rng(10)
    alarms = {"means": 0, "variances": 0, "failures": 0}
    for _ in range(300):
        baseline = NORMAL(generator, 12)
        others = [NORMAL(generator, 12) for _ in range(arms)]
        ps = {
            "means": [p_of_means((other - baseline).tolist()) for other in others],
            "variances": [p_of_variances(other.tolist(), baseline.tolist()) for other in others],
            "failures": [p_of_failures((other > 1).tolist(), (baseline > 1).tolist()) for other in others],
        }
        for name, raw in ps.items():
            alarms[name] += min(corrected(raw)) < statistics.ALPHA
    assert all(count / 300 <= 0.085 for count in alarms.values()), alarms
    assert alarms["means"] / 300 >= (0.02 if arms == 1 else 0.005)


@pytest.mark.usefixtures("few_resamples")
def test_known_effects_are_found() -> None:
    generator = np.random.default_rng(11)
    baseline = NORMAL(generator, 20)
    assert p_of_means((baseline + 1 + 0.5 * NORMAL(generator, 20) - baseline).tolist()) < 0.01
    assert p_of_variances((0.2 * NORMAL(generator, 20)).tolist(), baseline.tolist()) < 0.01
