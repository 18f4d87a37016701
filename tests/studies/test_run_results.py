"""The results of runs, read from their files."""

import json
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lightning_sparsegrad.studies._recorder import write_result
from lightning_sparsegrad.studies._run_results import RunResult, run_result
from lightning_sparsegrad.studies._runs import Run
from lightning_sparsegrad.studies._study import Study
from tests.studies.simulated import study_of

METRIC = "val/accuracy/mean"
HISTORY = {
    "step": [9, 9, 19, 29],
    "train/loss": [0.5, None, None, None],
    METRIC: [None, 0.6, 0.9, 0.8],
    "val/accuracy/de": [None, 0.5, 0.7, 0.6],
    "val/f1/de": [None, 0.1, 0.2, 0.3],
}
LAST = {METRIC: 0.8, "val/accuracy/de": 0.6, "val/accuracy/sw": 0.4, "val/f1/de": 0.3, "train/loss": 0.1}


def result_of(folder: Path, *, history: dict[str, Any] | None = None, **changes: Any) -> RunResult:
    result = {"metrics": LAST, "majority": {METRIC: 0.3}, "seconds": 12.5, **changes.pop("result", {})}
    run = Run("a", "lr=1", 3, {}, folder)
    run.folder.mkdir(parents=True)
    write_result(run.folder, result)
    if history is not None:
        pd.DataFrame(history).to_csv(run.folder / "metrics.csv", index=False)
    return run_result(run, Study(**{**vars(study_of("a")), "metric": METRIC, **changes}))


def test_the_last_validation_counts(tmp_path: Path) -> None:
    read = result_of(tmp_path, history=HISTORY)
    assert (read.arm, read.setting, read.seed) == ("a", "lr=1", 3)
    assert (read.value, read.bar, read.seconds) == (0.8, 0.3, 12.5)
    assert read.parts == {"de": 0.6, "sw": 0.4}
    assert read.curve == {10: 0.6, 20: 0.9, 30: 0.8}
    assert not read.failed


def test_or_the_best_with_what_it_had_then(tmp_path: Path) -> None:
    read = result_of(tmp_path, history=HISTORY, select="best")
    assert read.value == 0.9
    assert read.parts["de"] == 0.7
    least = result_of(tmp_path / "less", history=HISTORY, select="best", mode="min")
    assert least.value == 0.6


def test_the_best_is_finite(tmp_path: Path) -> None:
    history = {**HISTORY, METRIC: [None, 0.6, float("inf"), float("nan")]}
    assert result_of(tmp_path, history=history, select="best").value == 0.6
    assert result_of(tmp_path / "other", history=history).curve == {10: 0.6}


def test_a_run_that_ended_before_it_logged_has_no_curve(tmp_path: Path) -> None:
    result_of(tmp_path, result={"error": "OSError: no space left"})
    run = Run("a", "lr=1", 3, {}, tmp_path)
    (run.folder / "metrics.csv").touch()
    assert run_result(run, study_of("a")).curve == {}


def test_a_bar_of_the_study_goes_before_that_of_the_data(tmp_path: Path) -> None:
    assert result_of(tmp_path, failed_at=0.8).failed
    assert not result_of(tmp_path / "other", failed_at=0.79).failed
    assert isnan(result_of(tmp_path / "none", result={"majority": {}}).bar)


def test_a_run_without_a_value_has_failed_for_a_reason(tmp_path: Path, subtests: pytest.Subtests) -> None:
    reasons: list[tuple[dict[str, Any], str]] = [
        ({"error": "RuntimeError: a bug", "metrics": {}}, "RuntimeError: a bug"),
        ({"metrics": {METRIC: float("nan")}}, f"`{METRIC}` is not finite."),
        ({"metrics": {METRIC: float("inf")}}, f"`{METRIC}` is not finite."),
        ({"metrics": {"val/accuracy": 0.5}}, f"`{METRIC}` was not logged. Near matches: `val/accuracy`."),
    ]
    for number, (result, error) in enumerate(reasons):
        with subtests.test(error=error):
            read = result_of(tmp_path / str(number), result=result)
            assert read.error == error
            assert isnan(read.value)
            assert read.failed


def test_results_are_plain_json(tmp_path: Path) -> None:
    write_result(tmp_path, {"metrics": {"a": float("nan"), "b": 1.0}})
    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=str)["metrics"] == {"a": None, "b": 1.0}
