"""Two processes resume exactly, each with its own random states, data and metrics, or stop together at a signal."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sparsegrad import ConfigurationError, ExactResume
from lightning_sparsegrad.resume._waiting import INEXACT_KEY
from tests.launch import launch
from tests.resume import two_stops
from tests.resume.runs import BATCHES, THOROUGH, checkpoints, fit
from tests.resume.two_processes import CASES, TRIED, Drifting, noisy
from tests.studies.two_processes import LABELS

TRANSFORM = CASES["the module"]["transform"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.resume,
    pytest.mark.distributed,
    pytest.mark.timeout(1000 if THOROUGH else 300),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all cases in two processes, started once; return where they wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    launch("tests.resume.ranks", 2, folder, seconds=900)
    return folder


@pytest.mark.parametrize("case", TRIED)
def test_each_goes_on_as_if_it_had_not_stopped(folder: Path, case: str):
    results: list[dict[str, Any]] = [torch.load(folder / f"resume.two_processes/{case} {rank}.pt") for rank in range(2)]
    written = len(list(checkpoints(folder / "resume.two_processes" / case)))
    assert written >= 6
    assert [(result["exact"], result["fault"]) for result in results] == [(written if THOROUGH else 1, "")] * 2
    assert not torch.equal(results[0]["random"], results[1]["random"])
    assert (results[0]["seen"] == results[1]["seen"]) == (case == "no length")


def test_within_an_epoch_another_number_of_processes_is_refused(folder: Path):
    with pytest.raises(ConfigurationError) as refused:
        fit("module", TRANSFORM, data=noisy(), path=folder / "resume.two_processes/the module/step=3.ckpt")
    assert str(refused.value) == (
        "Parameter `devices` times `num_nodes` of the Trainer should be 2 to resume within an epoch: that many "
        "processes shared its data. Found 1."
    )


def test_between_epochs_another_number_of_processes_goes_on_with_a_warning(folder: Path):
    path = folder / "resume.two_processes/the module/epoch=0.ckpt"
    with pytest.warns(UserWarning, match="was written by 2 processes, and 1 resume: their random states restart"):
        _, resumed = fit(
            "module", CASES["the module"]["transform"], data=noisy(), path=path, kind=Drifting, max_epochs=2
        )
    assert len(resumed.seen) == 2 * BATCHES
    assert resumed.steps == 3 * BATCHES


@pytest.mark.parametrize("case", two_stops.TRIED)
def test_two_processes_stop_together(folder: Path, case: str) -> None:
    results = [json.loads((folder / f"resume.two_stops/{case} {rank}.json").read_text()) for rank in range(2)]
    step, validates = two_stops.CASES[case][-2:]
    assert results == [{"code": 143, "step": step, "validates": validates, "fault": ""}] * 2


def test_after_an_exception_in_one_the_first_writes_what_it_has_and_nobody_waits(folder: Path):
    folder = folder / "resume.one_of_two_fails"
    assert (folder / "1.txt").read_text() == "ValueError"
    assert (folder / "0.txt").exists()  # what gloo raises when the other is gone
    assert {path.name for path in folder.glob("*.ckpt")} == {"saved.ckpt", "last.ckpt", "on_exception.ckpt"}
    for path in folder.glob("*.ckpt"):
        stored = torch.load(path, weights_only=True)
        assert (stored["global_step"], stored[INEXACT_KEY]) == (1, {"step": 1})
    with pytest.warns(UserWarning, match="is not exact: training stopped at step 1"):
        run, _ = fit("module", TRANSFORM, path=folder / "saved.ckpt", callbacks=[ExactResume()])
    assert run.global_step > 1


def test_processes_of_a_study_agree_on_the_class_that_is_most_frequent_in_all(folder: Path) -> None:
    first, second = (json.loads((folder / f"studies.two_processes/{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["val/accuracy"] == pytest.approx(sum(LABELS) / len(LABELS))
