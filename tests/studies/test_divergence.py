"""Runs that diverged count as failed, at the level of chance, and are never missing."""

import json
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_sparsegrad import ConfigurationError, GradientTransformCallback, Identity
from lightning_sparsegrad.studies._comparison import compare, summarise
from lightning_sparsegrad.studies._recorder import RunRecorder, write_result
from lightning_sparsegrad.studies._report import write_report
from lightning_sparsegrad.studies._run_results import RunResult, run_results
from lightning_sparsegrad.studies._runs import Run
from lightning_sparsegrad.studies._study import Study
from tests.lightning.tasks import Batch, Regression, loader, trainer

from .simulated import study_of

METRIC, CHANCE = "val/accuracy", 0.6
FAULT = "The fit ended with weights that are not finite: `weight`."
MAJORITY = {METRIC: CHANCE, "val/accuracy/de": 0.55}
GOOD = {METRIC: 0.9, "val/accuracy/de": 0.8, "val/loss": 0.3}


def results_of(
    folder: Path, results: dict[str, dict[str, Any]], study: Study | None = None, **more: Any
) -> list[RunResult]:
    """Return the results read from recorded ones, one for each arm, with seed 3."""
    runs = [Run(arm, "", 3, {"arm": arm}, folder) for arm in results]
    for run, result in zip(runs, results.values(), strict=True):
        run.folder.mkdir(parents=True)
        write_result(run.folder, {"seconds": 1.0, **result})
        if history := more.get("history"):
            pd.DataFrame(history).to_csv(run.folder / "metrics.csv", index=False)
    return run_results(runs, study or study_of(*results))


def test_a_run_that_diverged_is_at_chance_level_whatever_it_answers(tmp_path: Path) -> None:
    lucky = {"metrics": {METRIC: 0.95, "val/accuracy/de": 0.99}, "majority": MAJORITY, "diverged": FAULT}
    (run,) = results_of(tmp_path, {"a": lucky})
    assert run.failed
    assert (run.value, run.bar, run.error) == (CHANCE, CHANCE, FAULT)
    assert run.parts == {"de": 0.55}


def test_its_best_validation_does_not_count_either(tmp_path: Path) -> None:
    history = {"step": [9, 19], METRIC: [0.9, 0.5]}
    result = {"metrics": {METRIC: 0.5}, "majority": MAJORITY, "diverged": FAULT}
    study = Study(**{**vars(study_of("a")), "select": "best"})
    (run,) = results_of(tmp_path, {"a": result}, study, history=history)
    assert run.value == CHANCE
    assert run.failed


def test_a_bar_of_the_study_is_its_value(tmp_path: Path) -> None:
    study = Study(**{**vars(study_of("a")), "failed_at": 0.7})
    (run,) = results_of(tmp_path, {"a": {"metrics": GOOD, "majority": MAJORITY, "diverged": FAULT}}, study)
    assert run.value == run.bar == 0.7


def test_a_result_from_before_tells_by_its_validation_loss(tmp_path: Path) -> None:
    (run,) = results_of(tmp_path, {"a": {"metrics": {METRIC: 0.95, "val/loss": nan}, "majority": MAJORITY}})
    assert (run.value, run.error, run.failed) == (CHANCE, "`val/loss` is not finite.", True)


def test_a_run_that_was_to_end_there_has_the_bar_of_another_on_its_data(tmp_path: Path) -> None:
    ended = {"diverged": "FloatingPointError: Gradients should be finite."}
    good, bad = results_of(tmp_path, {"a": {"metrics": GOOD, "majority": MAJORITY}, "b": ended})
    assert (bad.value, bad.bar) == (CHANCE, CHANCE)
    assert bad.failed
    assert not good.failed
    (alone,) = results_of(tmp_path / "alone", {"b": ended})
    assert isnan(alone.value)
    assert alone.failed


def test_an_error_is_none(tmp_path: Path) -> None:
    _, broken = results_of(tmp_path, {"a": {"metrics": GOOD, "majority": MAJORITY}, "b": {"error": "OSError: full"}})
    assert isnan(broken.value)
    assert not broken.diverged


def test_means_pairs_and_the_report_count_them(tmp_path: Path) -> None:
    bad = {"metrics": {METRIC: 0.99}, "majority": MAJORITY, "diverged": FAULT}
    good = {"metrics": GOOD, "majority": MAJORITY}
    study = study_of("good", "bad")
    results = results_of(tmp_path, {"good": good, "bad": bad}, study)
    summaries = summarise(study, results)
    assert [summary.failed for summary in summaries] == [0, 1]
    assert summaries[1].mean.value == CHANCE
    (difference,) = compare(study, summaries)
    assert (difference.pairs, difference.lost, difference.failures) == (1, 0, 1)
    write_report(study, results, tmp_path, missing=0)
    assert FAULT in (tmp_path / "report.md").read_text()


# ---------------------------------------------------------------- what a run writes
class Poisoned(Regression):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch) * torch.nan

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log(METRIC, torch.tensor(0.95))


def record(folder: Path, module: LightningModule, *callbacks: Any) -> dict[str, Any]:
    trainer(callbacks=[RunRecorder(str(folder)), *callbacks]).fit(module, loader(), loader(2))
    return json.loads((folder / "result.json").read_text())  # type: ignore[no-any-return]


def test_a_run_writes_that_it_diverged(tmp_path: Path) -> None:
    result = record(tmp_path, Poisoned())
    assert result["diverged"].startswith("The fit ended with weights that are not finite: `network.blocks.0.0.weight`")
    assert result["metrics"][METRIC] == pytest.approx(0.95)
    assert "diverged" not in record(tmp_path, Regression())


def test_a_run_writes_that_it_ended_where_gradients_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        record(tmp_path, Poisoned(), GradientTransformCallback(Identity(), nonfinite="raise"))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["diverged"].startswith("FloatingPointError: ")
    assert "error" not in result


class Refused(Regression):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        raise ConfigurationError("Parameter `x` should be 1. Found `x = 2`.")


def test_any_other_error_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        record(tmp_path, Refused())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["error"].startswith("ConfigurationError: ")
    assert "diverged" not in result
