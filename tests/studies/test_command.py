"""The command `sparsegrad study`: the runs that it starts, keeps and resumes, and its report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock, Timeout

from lightning_sparsegrad.main import main
from lightning_sparsegrad.studies._report import FILES
from lightning_sparsegrad.studies._runs import make_runs
from lightning_sparsegrad.studies._study import Study
from tests.resume.killed import Forked
from tests.studies.tasks import BASE, DROP, write

ROOT = Path(__file__).parents[2]
REPORT = ("report.md", "arms.csv", "differences.csv")  # the same up to times


def study(folder: Path, *arguments: str, jobs: int = 2, **changes: object) -> None:
    config = write(folder, **changes)
    main(["study", "--config", config, f"--folder={folder}", f"--jobs={jobs}", *arguments])


def results(folder: Path) -> dict[str, dict[str, object]]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")}


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes of runs from this one, which has the imports."""
    monkeypatch.setattr(subprocess, "Popen", Forked)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study: two arms and a broken one, with two seeds."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Forked)
        study(folder)
    return folder


@pytest.fixture
def again(done: Path, tmp_path: Path) -> Path:
    """A copy of it for tests that change it."""
    return shutil.copytree(done, tmp_path / "study")


def test_every_run_keeps_how_it_went(done: Path) -> None:
    assert len(results(done)) == 6
    for name, result in results(done).items():
        kept = {path.name for path in (done / "runs" / name).iterdir()}
        assert {"run.yaml", "config.yaml", "log.txt"} <= kept
        if name.startswith("broken"):
            assert result["error"] == "ValueError: a bug in the training step"
        else:
            assert {"metrics.csv", "gradients.parquet"} <= kept
            assert "error" not in result
            assert result["steps"] == 8


def test_a_run_is_what_its_command_does(done: Path, tmp_path: Path) -> None:
    (folder,) = done.glob("runs/drop-seed1-*")
    before = json.loads((folder / "result.json").read_text())["metrics"]
    config = yaml.safe_load((folder / "run.yaml").read_text())
    for callback in config["trainer"]["callbacks"]:
        callback.get("init_args", {}).pop("folder", None)
    config["trainer"]["callbacks"] = [c for c in config["trainer"]["callbacks"] if "Recorder" not in c["class_path"]]
    config["trainer"] |= {"default_root_dir": str(tmp_path), "logger": False}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    from lightning_sparsegrad import SparseGradCLI

    trainer = SparseGradCLI(args=["fit", "--config", str(tmp_path / "run.yaml")]).trainer
    assert before["val/loss"] == float(trainer.callback_metrics["val/loss"])


def test_the_seed_is_that_of_model_and_masks(done: Path) -> None:
    losses = {name: result["metrics"].get("val/loss") for name, result in results(done).items()}  # type: ignore[attr-defined]
    values = [value for value in losses.values() if value is not None]
    assert len(set(values)) == 4
    monitored = [pd.read_parquet(path) for path in sorted(done.glob("runs/drop-*/gradients.parquet"))]
    assert monitored[0]["kept"].mean() < 1
    assert not monitored[0]["kept"].equals(monitored[1]["kept"])


def test_the_report_tells_of_them(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (done / "report.md").read_text()
    assert text.count("ValueError: a bug in the training step") == 2
    arms = pd.read_csv(done / "arms.csv").set_index("arm")
    assert list(arms["failed"]) == [0, 0, 2]
    assert arms.loc["plain", "runs"] == 2


def test_what_has_ended_is_not_run_again(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in again.glob("runs/*/*")}
    report = (again / "report.md").read_text()
    study(again)
    assert {path: path.stat().st_mtime_ns for path in again.glob("runs/*/*")} == before
    assert (again / "report.md").read_text() == report
    assert "2 arms" not in capsys.readouterr().out
    study(again, "--report_only", arms={"plain": [], "drop": [DROP]})
    assert "2 arms" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists", "ignore:The number of training batches")
def test_commands_are_printed_and_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, "--print_commands", seeds=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert not results(tmp_path)
    command, subcommand, flag, path = lines[0].split()
    assert (command, subcommand, flag) == ("sparsegrad", "fit", "--config")
    main([subcommand, flag, path])
    assert len(results(tmp_path)) == 1
    study(tmp_path, "--print-commands", seeds=3)
    assert len(capsys.readouterr().out.splitlines()[-8:]) == 8


def test_an_overlay_may_name_a_class_with_its_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": "00:00:01:00"}}
    study(tmp_path, "--print_commands", arms={"plain": [{"trainer.callbacks": [stop]}]}, seeds=1, grid=None, trial=None)
    config = yaml.safe_load(Path(capsys.readouterr().out.split()[-1]).read_text())
    assert config["trainer"]["callbacks"][0]["init_args"]["duration"] == "00:00:01:00"


@pytest.mark.long
def test_a_run_is_a_process_of_its_own(done: Path, tmp_path: Path) -> None:
    study(tmp_path, arms={"drop": [DROP]}, seeds=[1])
    ((name, result),) = results(tmp_path).items()
    assert result["metrics"] == results(done)[name]["metrics"]


@pytest.mark.distributed
@pytest.mark.long
def test_a_run_may_take_several_processes(tmp_path: Path) -> None:
    base = {**BASE, "trainer.devices": 2, "trainer.strategy": "ddp"}
    study(tmp_path, base=[base], arms={"plain": []}, seeds=1)
    (result,) = results(tmp_path).values()
    assert "error" not in result
    assert result["steps"] == 4


@pytest.mark.long
def test_a_process_that_cannot_begin_is_recorded(tmp_path: Path) -> None:
    missing = {**BASE, "data.size": 0}
    study(tmp_path, base=[missing], arms={"plain": []}, seeds=1)
    (result,) = results(tmp_path).values()
    assert result["error"] == "Parameter `size` should be positive. Found `size = 0`."
    study(tmp_path, "--retry", base=[missing], arms={"plain": []}, seeds=1)
    assert len(results(tmp_path)) == 1


@pytest.mark.usefixtures("forks")
def test_the_reason_is_what_ended_a_run_in_one_line(tmp_path: Path) -> None:
    study(tmp_path, arms={fault: [{"model.fault": fault}] for fault in ("lines", "killed")}, seeds=1)
    assert {name.partition("-")[0]: result["error"] for name, result in results(tmp_path).items()} == {
        "lines": "ValueError: a bug, - told | in lines",
        "killed": "The process was killed by signal 9 (Killed).",
    }


def test_a_metric_that_is_not_logged_is_reported(again: Path) -> None:
    study(again, "--report_only", metric="val/lost")
    assert "`val/lost` was not logged. Near matches: `val/loss`" in (again / "report.md").read_text()


@pytest.mark.long
def test_ray_runs_the_same(done: Path, tmp_path: Path) -> None:
    study(tmp_path, "--launcher=ray", arms={"drop": [DROP], "broken": [{"model.fault": "step"}]}, seeds=[1])
    expected = results(done)
    assert len(results(tmp_path)) == 2
    for name, result in results(tmp_path).items():
        assert result["metrics"] == expected[name]["metrics"]
        assert result.get("error") == expected[name].get("error")


def test_mistakes_are_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for argument, message in (
        ("--jobs=0", "Parameter `jobs` should be positive. Found `jobs = 0`."),
        ("--launcher=slurm", "Parameter `launcher` should be"),
        ("--seed=3", "`seed` is not an option, in `--seed=3`. Near matches: `seeds`"),
        ("--report_only", "A report should have at least one run that has ended. Found none"),
    ):
        with subtests.test(argument):
            with pytest.raises(SystemExit):
                main(["study", "--config", write(tmp_path), f"--folder={tmp_path}", argument])
            error = capsys.readouterr().err
            assert message in error
            assert len(error.splitlines()) == 1


@pytest.mark.usefixtures("forks")
@pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists", "ignore:The number of training batches")
def test_a_run_that_another_process_executes_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightning_sparsegrad.studies._launchers.SECONDS_TO_GO", 0.1)
    monkeypatch.setattr("lightning_sparsegrad.studies._recorder.SECONDS_TO_GO", 0.1)
    study(tmp_path, "--print_commands", arms={"plain": []}, seeds=1)
    command = capsys.readouterr().out.split()
    folder = Path(command[-1]).parent
    (folder / "metrics.csv").touch()
    with FileLock(folder / ".lock"):
        with pytest.raises(SystemExit):
            study(tmp_path, arms={"plain": []}, seeds=1)
        assert (folder / "metrics.csv").is_file()
        with pytest.raises(SystemExit):
            main(command[1:])
    assert not results(tmp_path)
    assert "has not ended: it was stopped, or another process runs it." in capsys.readouterr().out


def test_two_studies_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(SystemExit):
        study(tmp_path)
    assert "in which one runs a study" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
    ("stop", "sign"),
    [
        (signal.SIGINT, "log.txt"),  # a process that has not started its fit
        *((stop, "gradients.parquet") for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_runs_that_a_stopped_study_has_begun_end_and_have_not_failed(
    tmp_path: Path, stop: signal.Signals, sign: str
) -> None:
    config = write(tmp_path, base=[{**BASE, "trainer.max_epochs": -1}], arms={"plain": []})  # it never ends
    command = [sys.executable, "-m", "lightning_sparsegrad", "study", "--config", config, f"--folder={tmp_path}"]
    process = subprocess.Popen([*command, "--jobs=2"], cwd=ROOT, stdout=subprocess.DEVNULL)
    begun = [tmp_path / "runs" / run.name / sign for run in make_runs(Study(**_arguments(config)), tmp_path)]
    _wait_until(lambda: all(path.is_file() for path in begun))
    process.send_signal(stop)
    process.wait(timeout=60)
    _wait_until(lambda: all(_is_free(path.parent / ".lock") for path in begun))
    assert not results(tmp_path)


def _arguments(config: str) -> dict[str, Any]:
    arguments: dict[str, Any] = yaml.safe_load(Path(config).read_text())
    return arguments


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _is_free(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


@pytest.mark.resume
@pytest.mark.long
@pytest.mark.parametrize("seed", range(2 if os.environ.get("RESUME_ALL") else 1))
def test_a_study_killed_at_random_ends_with_the_same_report(tmp_path: Path, done: Path, seed: int) -> None:
    random, config = Random(seed), write(tmp_path)  # noqa: S311  # of moments to kill
    command = [sys.executable, "-m", "lightning_sparsegrad", "study", "--config", config, f"--folder={tmp_path}"]
    kills = 0
    while True:
        process = subprocess.Popen([*command, "--jobs=2"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, error = process.communicate(timeout=random.uniform(6, 24) if kills < 4 else None)
            assert process.returncode == 0, error
            break
        except subprocess.TimeoutExpired:
            kills += 1
            process.send_signal(random.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
            process.communicate()
            time.sleep(random.uniform(0, 1))
    assert kills
    assert results(tmp_path).keys() == results(done).keys()
    for name in REPORT:
        first, second = ((folder / name).read_text() for folder in (done, tmp_path))
        assert _without_times(second) == _without_times(first)


def _without_times(text: str) -> list[list[str]]:
    """Return the cells of the tables in a text, without the last column of arms, which is of seconds."""
    lines = [line.replace("|", ",").split(",") for line in text.splitlines()]
    return [cells[:-2] if cells[0] == "" else cells[:-1] for cells in lines if len(cells) > 1]


def test_help_tells_of_studies(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Compare strategies over many runs of `fit`." in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("--arms", "--seeds", "--metric", "--jobs", "--print_commands"))


def test_what_a_report_takes_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("lightning_sparsegrad.studies")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(SystemExit):
        main(["study"])
    assert "pip install lightning-sparsegrad[studies]`. Found no `scipy`." in capsys.readouterr().err


def test_a_report_does_not_write_over_files_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for name in ("report.md", "runs.csv", "curves.png"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with subtests.test(name):
            with pytest.raises(SystemExit):
                study(folder, "--report_only")
            assert f"its report would overwrite `{name}`. Found `folder = {folder}`." in capsys.readouterr().err
            assert (folder / name).read_text() == "mine"


def test_it_is_known_what_a_report_writes(done: Path) -> None:
    assert {path.name for path in done.iterdir() if path.is_file() and path.suffix in {".md", ".csv", ".png"}} <= {
        *FILES
    }
