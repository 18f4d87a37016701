"""Summaries of the runs of a study: of each arm, and of each arm against the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from statistics import median

from lightning_sparsegrad.studies._inference import (
    ALPHA,
    Interval,
    corrected,
    deviation_interval,
    mean_interval,
    p_of_failures,
    p_of_means,
    p_of_variances,
    spread,
)
from lightning_sparsegrad.studies._run_results import RunResult
from lightning_sparsegrad.studies._study import Study

NOTHING_SHOWN = "no difference shown"


@dataclass(frozen=True)
class Summary:
    """One arm in one setting.

    Args:
        setting: The setting.
        arm: The arm.
        results: The results of its runs, by seed.
        mean: The mean over the seeds, of all runs with a value, failed ones included.
        deviation: The standard deviation over the seeds.
    """

    setting: str
    arm: str
    results: dict[int, RunResult]
    mean: Interval
    deviation: Interval

    @property
    def values(self) -> list[float]:
        """The values of the runs that have one."""
        return [result.value for result in self.results.values() if not isnan(result.value)]

    @property
    def failed(self) -> int:
        """The number of failed runs, including those without a value."""
        return sum(result.failed for result in self.results.values())

    @property
    def seconds(self) -> float:
        """The median duration of a fit in seconds; undefined if none is known."""
        known = [result.seconds for result in self.results.values() if not isnan(result.seconds)]
        return median(known) if known else nan


@dataclass(frozen=True)
class Difference:
    """One arm against the baseline, seed by seed, in one setting.

    Args:
        setting: The setting.
        arm: The arm.
        pairs: The number of seeds for which both have a value.
        mean: The mean of the differences, arm minus baseline.
        p_mean: The p-value of the paired permutation test, corrected for the number of arms.
        ratio: The standard deviation of the arm's values divided by that of the baseline's.
        wider: The mean distance of the arm's values from their median, minus the same of the baseline: the statistic
            behind the Brown-Forsythe test.
        p_variance: The p-value of the Brown-Forsythe test, corrected.
        p_failures: The p-value of McNemar's exact test, corrected.
        failures: The number of failed runs of the arm minus that of the baseline, over the seeds of both.
        sign: 1 if a higher metric is better, -1 if a lower one is.
        lost: The number of seeds for which one of the runs has no value.
    """

    setting: str
    arm: str
    pairs: int
    mean: Interval
    p_mean: float
    ratio: float
    wider: float
    p_variance: float
    p_failures: float
    failures: int
    sign: int
    lost: int

    @property
    def verdict(self) -> str:
        """The effects shown, in words: those on which the corrected test agrees with the interval or the ratio."""
        effects = []
        among = " among runs with a value" if self.lost else ""
        if self.p_mean < ALPHA and self.mean.excludes_zero:
            effects.append(("better mean" if self.mean.value * self.sign > 0 else "worse mean") + among)
        if self.p_variance < ALPHA and (self.ratio - 1) * self.wider > 0:
            effects.append(("varies less" if self.ratio < 1 else "varies more") + among)
        if self.p_failures < ALPHA:
            effects.append("fails less" if self.failures < 0 else "fails more")
        return ", ".join(effects) or NOTHING_SHOWN


def summarise(study: Study, results: Sequence[RunResult]) -> list[Summary]:
    """Return a summary of every arm in every setting that has a run, in the order of the study."""
    summaries, by_seed = [], sorted(results, key=lambda run: run.seed)
    for setting, _ in study.settings():
        for arm in study.arms:
            runs = {run.seed: run for run in by_seed if (run.arm, run.setting) == (arm, setting)}
            values = [run.value for run in runs.values() if not isnan(run.value)]
            if runs:
                mean = mean_interval(values) if values else Interval(nan)
                deviation = deviation_interval(values) if values else Interval(nan)
                summaries.append(Summary(setting, arm, runs, mean, deviation))
    return summaries


def compare(study: Study, summaries: Sequence[Summary]) -> list[Difference]:
    """Compare every other arm with the baseline; p-values are corrected over the arms of a setting."""
    differences: list[Difference] = []
    for setting, _ in study.settings():
        within = [summary for summary in summaries if summary.setting == setting]
        baseline = next((summary for summary in within if summary.arm == study.reference), None)
        if baseline is None:
            continue
        raw = [_difference(summary, baseline, study.sign) for summary in within if summary is not baseline]
        means, variances, failures = (
            corrected([getattr(difference, name) for difference in raw])
            for name in ("p_mean", "p_variance", "p_failures")
        )
        differences += [
            replace(difference, p_mean=p_mean, p_variance=p_variance, p_failures=p_failures)
            for difference, p_mean, p_variance, p_failures in zip(raw, means, variances, failures, strict=True)
        ]
    return differences


def _difference(summary: Summary, baseline: Summary, sign: int) -> Difference:
    shared = [seed for seed in summary.results if seed in baseline.results]
    pairs = [(summary.results[seed], baseline.results[seed]) for seed in shared]
    differences = paired(pairs)
    failed, others = [a.failed for a, _ in pairs], [b.failed for _, b in pairs]
    deviation, other = summary.deviation.value, baseline.deviation.value
    return Difference(
        setting=summary.setting,
        arm=summary.arm,
        pairs=len(differences),
        mean=mean_interval(differences) if differences else Interval(nan),
        p_mean=p_of_means(differences),
        ratio=deviation / other if other else inf if deviation else nan,
        wider=spread(summary.values) - spread(baseline.values),
        p_variance=p_of_variances(summary.values, baseline.values),
        p_failures=p_of_failures(failed, others),
        failures=sum(failed) - sum(others),
        sign=sign,
        lost=len(pairs) - len(differences),
    )


def paired(pairs: Sequence[tuple[RunResult, RunResult]], part: str | None = None) -> list[float]:
    """Return the differences within pairs of runs that both have a value, on all data or on one part of it."""

    def of(run: RunResult) -> float:
        return run.value if part is None else run.parts.get(part, nan)

    both = [of(first) - of(second) for first, second in pairs]
    return [difference for difference in both if not isnan(difference)]
