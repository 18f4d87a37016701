"""How a run went, as a study sees it."""

from dataclasses import dataclass, field
from math import inf, nan
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_sparsegrad.errors import near_matches
from lightning_sparsegrad.results import is_part, place_of
from lightning_sparsegrad.studies.runs import Run
from lightning_sparsegrad.studies.study import Study

_METRICS = "metrics.csv"


@dataclass(frozen=True)
class Outcome:
    """How one run went.

    Args:
        arm: Its arm.
        setting: Its setting.
        seed: Its seed.
        value: The metric; undefined if the run ended with an error, or the metric is not finite.
        bar: What a run has to be better than, or it has failed; undefined if nothing tells.
        error: Why it has no value; empty if it has one.
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
    seconds: float = nan
    parts: dict[str, float] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def failed(self) -> bool:
        """Whether it has no value, or none better than the bar."""
        return self.value != self.value or self.value * self.sign <= self.bar * self.sign


def outcome_of(run: Run, study: Study) -> Outcome:
    """Return how a run that has ended went."""
    result: dict[str, Any] = run.result or {}
    metrics = {name: nan if value is None else float(value) for name, value in result.get("metrics", {}).items()}
    history = _history(run.folder / _METRICS, study.metric)
    if study.select == "best" and not history.empty:
        best = (history[study.metric] * study.sign).idxmax()
        metrics |= {str(name): float(value) for name, value in history.loc[best].items()}
    bar = study.failed_at if study.failed_at is not None else result.get("majority", {}).get(study.metric)
    error = result.get("error", "")
    if not error and study.metric not in metrics:
        error = f"`{study.metric}` was not logged.{near_matches(study.metric, metrics)}"
    value = metrics.get(study.metric, nan)
    return Outcome(
        arm=run.arm,
        setting=run.setting,
        seed=run.seed,
        value=nan if error else value,
        bar=nan if bar is None else float(bar),
        sign=study.sign,
        error=error or ("" if value == value else f"`{study.metric}` is not finite."),
        seconds=float(result.get("seconds", nan)),
        parts=_parts(metrics, study.metric),
        curve={} if history.empty else dict(zip(history["step"].astype(int) + 1, history[study.metric], strict=True)),
        folder=run.folder,
    )


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
    places = {found: place_of(found, prefix=f"{prefix}/") for found in metrics}
    return {
        place[1]: metrics[found] for found, place in places.items() if place and place[0] == name and is_part(place[1])
    }
