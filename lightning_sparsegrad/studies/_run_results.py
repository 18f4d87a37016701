"""How a run went, as a study sees it."""

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
    """How one run went.

    Args:
        arm: Its arm.
        setting: Its setting.
        seed: Its seed.
        value: The metric; undefined if the run ended with an error, or the metric is not finite. That of a run that
            diverged is the bar, whatever a model without finite weights answers.
        bar: What a run has to be better than, or it has failed; undefined if nothing tells.
        error: Why it has no value, or none of its own; empty if it has one.
        diverged: Whether weights or validation loss were not finite at its end.
        seconds: How long its fit took.
        parts: The metric by part of the data.
        curve: The metric by optimizer steps done.
        folder: Where its files are.
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
        """Whether it has no value, or none better than the bar."""
        return self.value != self.value or self.value * self.sign <= self.bar * self.sign


def run_results(runs: Sequence[Run], study: Study) -> list[RunResult]:
    """Return how runs that have ended went.

    One that was to end where gradients are not finite never got to its bar: it has that of another run on its data.
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
    """Return how a run that has ended went."""
    result: dict[str, Any] = run.result or {}
    metrics = {name: nan if value is None else float(value) for name, value in result.get("metrics", {}).items()}
    history = _history(run.folder / _METRICS, study.metric)
    majority = {name: float(value) for name, value in result.get("majority", {}).items() if value is not None}
    bar = study.failed_at if study.failed_at is not None else majority.get(study.metric, nan)
    diverged = result.get("diverged") or _divergence(metrics)
    if diverged:
        metrics = majority | {study.metric: bar}  # what it logged is of no model
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
    """Return a sentence about a validation loss that is not finite, of a run that was recorded without one."""
    losses = [name for name, value in metrics.items() if isnan(value) and is_validation_loss(name)]
    return f"`{losses[0]}` is not finite." if losses else ""


def _history(path: Path, metric: str) -> pd.DataFrame:
    """Return what was logged with the metric where that is finite, a row for each time."""
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    rows = pd.read_csv(path).replace([inf, -inf], nan)
    return rows.dropna(subset=[metric]).dropna(axis=1) if metric in rows else pd.DataFrame()


def _parts(metrics: dict[str, float], metric: str) -> dict[str, float]:
    """Return the values by part of `<split>/<metric>/mean_unseen`, or of `<split>/<metric>`."""
    prefix, _, rest = metric.partition("/")
    name = rest.partition("/")[0]
    places = {found: metric_and_part(found, prefix=f"{prefix}/") for found in metrics}
    return {
        place[1]: metrics[found] for found, place in places.items() if place and place[0] == name and is_part(place[1])
    }
