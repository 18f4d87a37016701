"""The results of the runs of a study, read from the files that the runs wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from lightning_sparsegrad.errors import near_matches
from lightning_sparsegrad.loops._divergence import is_validation_loss
from lightning_sparsegrad.metrics._evaluation_table import is_part, metric_and_part
from lightning_sparsegrad.studies._runs import Run
from lightning_sparsegrad.studies._study import Study

_METRICS = "metrics.csv"


@dataclass(frozen=True)
class RunResult:
    """The result of one run.

    Args:
        arm: Its arm.
        setting: Its setting.
        seed: Its seed.
        value: The metric; undefined if the run ended with an error or the metric is not finite. A run that diverged
            has the value of the bar, whatever a model with non-finite weights predicts.
        bar: The value that a run must exceed, or it has failed; undefined if it is not known.
        sign: 1 if a higher metric is better, -1 if a lower one is.
        error: The reason why it has no value of its own; empty if it has one.
        diverged: Whether weights or validation loss were not finite at its end.
        seconds: The duration of its fit in seconds.
        parts: The metric by part of the data.
        curve: The metric by optimizer steps done.
        folder: The folder of its files.
    """

    arm: str
    setting: str
    seed: int
    value: float
    bar: float
    sign: int
    error: str = ""
    diverged: bool = False
    seconds: float = nan
    parts: dict[str, float] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def failed(self) -> bool:
        """Whether it has no value, or its value is not better than the bar."""
        return self.value != self.value or self.value * self.sign <= self.bar * self.sign


def run_results(runs: Sequence[Run], study: Study) -> list[RunResult]:
    """Return the results of runs that have ended.

    A run that ended at non-finite gradients did not record its bar: it takes the bar of another run on the same data.
    """
    results = [run_result(run, study) for run in runs]
    bars = {(run.setting, run.seed): run.bar for run in results if not isnan(run.bar)}

    def completed(run: RunResult) -> RunResult:
        of_setting = [bar for (setting, _), bar in bars.items() if setting == run.setting]
        if not run.diverged or not isnan(run.bar) or not of_setting:
            return run
        bar = bars.get((run.setting, run.seed), median(of_setting))
        return replace(run, bar=bar, value=bar)

    return [completed(run) for run in results]


def run_result(run: Run, study: Study) -> RunResult:
    """Return the result of a run that has ended."""
    result: dict[str, Any] = run.result or {}
    metrics = {name: nan if value is None else float(value) for name, value in result.get("metrics", {}).items()}
    history = _history(run.folder / _METRICS, study.metric)
    majority = {name: float(value) for name, value in result.get("majority", {}).items() if value is not None}
    bar = study.failed_at if study.failed_at is not None else majority.get(study.metric, nan)
    diverged = result.get("diverged") or _divergence(metrics)
    if diverged:
        metrics = majority | {study.metric: bar}  # the metrics it logged are meaningless
    elif study.select == "best" and not history.empty:
        best = (history[study.metric] * study.sign).idxmax()
        metrics |= {str(name): float(value) for name, value in history.loc[best].items()}
    error = result.get("error", "")
    if not error and study.metric not in metrics:
        error = f"`{study.metric}` was not logged.{near_matches(study.metric, metrics)}"
    value = nan if error else metrics.get(study.metric, nan)
    return RunResult(
        arm=run.arm,
        setting=run.setting,
        seed=run.seed,
        value=value,
        bar=float(bar),
        sign=study.sign,
        error=error or diverged or ("" if value == value else f"`{study.metric}` is not finite."),
        diverged=bool(diverged),
        seconds=float(result.get("seconds", nan)),
        parts=_parts(metrics, study.metric),
        curve={} if history.empty else dict(zip(history["step"].astype(int) + 1, history[study.metric], strict=True)),
        folder=run.folder,
    )


def _divergence(metrics: dict[str, float]) -> str:
    """Return a sentence about a non-finite validation loss, for a run that recorded none itself."""
    losses = [name for name, value in metrics.items() if isnan(value) and is_validation_loss(name)]
    return f"`{losses[0]}` is not finite." if losses else ""


def _history(path: Path, metric: str) -> pd.DataFrame:
    """Return the logged rows in which the metric is finite."""
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    rows = pd.read_csv(path).replace([inf, -inf], nan)
    return rows.dropna(subset=[metric]).dropna(axis=1) if metric in rows else pd.DataFrame()


def _parts(metrics: dict[str, float], metric: str) -> dict[str, float]:
    """Return the values by part of a metric named `<split>/<metric>` or `<split>/<metric>/<mean>`."""
    prefix, _, rest = metric.partition("/")
    name = rest.partition("/")[0]
    named = {key: metric_and_part(key, prefix=f"{prefix}/") or ("", "") for key in metrics}
    return {part: metrics[key] for key, (base, part) in named.items() if base == name and is_part(part)}
