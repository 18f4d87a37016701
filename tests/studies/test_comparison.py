"""The verdicts of a study on arms with known effects."""

from dataclasses import replace
from math import inf, isnan, nan

import numpy as np
import pytest

from lightning_sparsegrad.studies._comparison import NOTHING_SHOWN, Difference, compare, summarise
from lightning_sparsegrad.studies._inference import corrected
from lightning_sparsegrad.studies._run_results import RunResult
from tests.studies.simulated import BAR, broken, simulate, study_of


def differences(*runs: list[RunResult], mode: str = "max") -> dict[str, Difference]:
    study = study_of(*dict.fromkeys(run.arm for of_arm in runs for run in of_arm), mode=mode)
    compared = compare(study, summarise(study, [run for of_arm in runs for run in of_arm]))
    return {difference.arm: difference for difference in compared}


def test_arms_of_the_same_kind_are_not_told_apart() -> None:
    by_arm = differences(simulate("a"), simulate("b"), simulate("c"), simulate("d"))
    assert {difference.verdict for difference in by_arm.values()} == {NOTHING_SHOWN}


def test_a_better_mean_is_shown() -> None:
    by_arm = differences(simulate("a"), simulate("b", mean=0.85), simulate("c", mean=0.75))
    assert by_arm["b"].verdict == "better mean"
    assert by_arm["b"].mean.low > 0
    assert by_arm["c"].verdict == "worse mean"


def test_less_is_better_where_the_study_says_so() -> None:
    by_arm = differences(simulate("a", sign=-1), simulate("b", mean=0.85, sign=-1), mode="min")
    assert by_arm["b"].verdict == "worse mean"


def test_less_variance_is_shown() -> None:
    by_arm = differences(simulate("a", deviation=0.06), simulate("b", deviation=0.005))
    assert by_arm["b"].verdict == "varies less"
    assert by_arm["b"].ratio < 0.3
    assert differences(simulate("b", deviation=0.005), simulate("a", deviation=0.06))["a"].verdict == "varies more"


def of_values(arm: str, values: list[float]) -> list[RunResult]:
    return [RunResult(arm, "", seed, value, nan, 1) for seed, value in enumerate(values)]


def test_variance_is_shown_where_test_and_ratio_agree() -> None:
    """The test compares distances from the median, the ratio their squares."""
    apart = differences(of_values("a", [1.0, -1.0] * 10), of_values("b", [0.0] * 18 + [3.6, -3.6]))["b"]
    assert apart.p_variance < 0.05
    assert apart.ratio > 1
    assert apart.verdict == NOTHING_SHOWN
    constant = differences(of_values("a", [0.0] * 20), of_values("b", [1.0, -1.0] * 10))["b"]
    assert (constant.ratio, constant.verdict) == (inf, "varies more")


def test_a_verdict_mentions_runs_without_a_value() -> None:
    half = [*simulate("b", mean=0.9, seeds=10), *(broken("b", seed) for seed in range(10, 20))]
    difference = differences(simulate("a"), half)["b"]
    assert difference.verdict == "better mean among runs with a value, fails more"
    assert differences(simulate("a"), half[:10])["b"].verdict == "better mean"


def test_fewer_failures_are_shown() -> None:
    by_arm = differences(simulate("a", failing=0.7), simulate("b"))
    assert "fails less" in by_arm["b"].verdict
    assert "fails more" in differences(simulate("b"), simulate("a", failing=0.7))["a"].verdict


def test_nothing_is_better_where_the_interval_has_zero() -> None:
    """A permutation test may be significant where a bootstrap is not, and vice versa: both must agree."""
    difference = differences(simulate("a"), simulate("b", mean=0.85))["b"]
    across = replace(difference, mean=replace(difference.mean, low=-0.01))
    assert across.p_mean < 0.05
    assert across.verdict == NOTHING_SHOWN
    assert replace(difference, p_mean=0.06).verdict == NOTHING_SHOWN


def test_runs_are_paired_by_seed() -> None:
    first, second = simulate("a", deviation=0.2), simulate("b")
    shifted = [RunResult(**{**vars(run), "arm": "b", "value": run.value + 0.01}) for run in first]
    difference = differences(first, shifted)["b"]
    assert difference.mean.value == pytest.approx(0.01)
    assert difference.mean.high - difference.mean.low < 1e-9
    assert difference.pairs == len(second)


def test_runs_without_a_value_have_failed_and_have_no_pair() -> None:
    runs = [*simulate("a", seeds=5), *simulate("b", seeds=4), broken("b", 4)]
    study = study_of("a", "b", seeds=5)
    first, second = summarise(study, runs)
    (difference,) = compare(study, [first, second])
    assert (first.failed, second.failed) == (0, 1)
    assert len(second.values) == 4
    assert (difference.pairs, difference.failures) == (4, 1)


def test_a_run_at_the_bar_has_failed() -> None:
    at, above = (RunResult("a", "", 0, value, BAR, 1) for value in (BAR, BAR + 1e-6))
    assert at.failed
    assert not above.failed
    less = RunResult("a", "", 0, BAR - 0.1, BAR, -1)
    assert not less.failed
    assert not RunResult("a", "", 0, 0.1, float("nan"), 1).failed


def test_tests_are_corrected_for_the_number_of_arms() -> None:
    arms = [simulate(arm, mean=mean) for arm, mean in (("a", 0.8), ("b", 0.812), ("c", 0.814), ("d", 0.8))]
    alone = [differences(arms[0], other)[other[0].arm] for other in arms[1:]]
    together = differences(*arms)
    for name in ("p_mean", "p_variance", "p_failures"):
        corrected_values = [getattr(together[difference.arm], name) for difference in alone]
        assert corrected_values == corrected([getattr(difference, name) for difference in alone])
    assert together["b"].p_mean > alone[0].p_mean


def test_settings_are_kept_apart() -> None:
    study = study_of("a", "b", grid={"lr": [0.1, 0.2]})
    runs = [
        *simulate("a", setting="lr=0.1"),
        *simulate("b", setting="lr=0.1", mean=0.9),
        *simulate("a", setting="lr=0.2"),
        *simulate("b", setting="lr=0.2"),
    ]
    compared = compare(study, summarise(study, runs))
    assert [(difference.setting, difference.verdict) for difference in compared] == [
        ("lr=0.1", "better mean"),
        ("lr=0.2", NOTHING_SHOWN),
    ]


def test_one_seed_shows_nothing() -> None:
    difference = differences(simulate("a", seeds=1), simulate("b", mean=0.95, seeds=1))["b"]
    assert isnan(difference.p_mean)
    assert difference.verdict == NOTHING_SHOWN


def test_the_order_of_runs_does_not_matter() -> None:
    runs = [*simulate("a"), *simulate("b", mean=0.85)]
    study = study_of("a", "b")
    expected = compare(study, summarise(study, runs))
    order = np.random.default_rng(0).permutation(len(runs))
    assert compare(study, summarise(study, [runs[index] for index in order])) == expected
