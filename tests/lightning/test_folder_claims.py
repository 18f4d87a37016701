"""Runs that start at the same time: each has its own folders and files, and none is deleted, mixed or refused."""

import csv
import os
import signal
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from lightning_sparsegrad import ConfigurationError
from lightning_sparsegrad.callbacks._folder_claims import Claims, FolderClaims
from lightning_sparsegrad.main import main
from tests.command_line import READER, SAVE, UNLABELLED, Unlabelled

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, for runs that start at the same instant")

RUNS = 3
FIT = ["fit", READER, "--model.num_labels=2", "--model.gradient_transform=Identity", UNLABELLED]
FIT += ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]
FIT += ["--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1", "--trainer.num_sanity_val_steps=0"]
FIXED = '--trainer.logger={"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "version": "fixed"}}'
SHARED = '--trainer.callbacks={"class_path": "ModelCheckpoint", "init_args": {"dirpath": "kept", "save_top_k": -1}}'
OF_THE_COMMAND_LINE = pytest.param(SAVE, "checkpoints", marks=pytest.mark.long)

TOGETHER = f"--trainer.callbacks+={__name__}.Together"


class Together(Callback):
    """Has no run train before all of them have begun."""

    def on_train_start(self, *_: Any) -> None:
        Path(f"begun-{os.getpid()}").touch()
        while len(list(Path().glob("begun-*"))) < RUNS:
            sleep(0.01)


class Refused(Unlabelled):
    def prepare_data(self) -> None:
        raise ConfigurationError("Parameter `data` should be there. Found none.")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def at_once(commands: Sequence[Sequence[str]]) -> list[int]:
    """Run commands at the same instant, each in a fork of this process; return their statuses."""
    waits, starts = os.pipe()
    processes = []
    for number, command in enumerate(commands):
        if not (process := os.fork()):
            _run(command, waits, starts, Path(f"output{number}.txt"))
        processes.append(process)
    os.close(waits)
    os.close(starts)  # now
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def _run(command: Sequence[str], waits: int, starts: int, output: Path) -> None:
    status = 1
    try:
        signal.alarm(280)  # it may wait long for a core
        os.close(starts)
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.read(waits, 1)
        main(list(command))
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def fits(*arguments: str) -> list[int]:
    return at_once(
        [[*FIT, *arguments, TOGETHER, f"--seed_everything={seed}", f"--model.lr={seed}"] for seed in range(1, RUNS + 1)]
    )


def logged(folder: Path) -> list[str]:
    """Return the steps for which a run's table has a loss."""
    with (folder / "metrics.csv").open() as file:
        return [row["step"] for row in csv.DictReader(file) if row.get("val/loss")]


def assert_one_run_per_folder(folders: list[Path]) -> None:
    assert len(folders) == RUNS
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in folders]
    assert {config["seed_everything"] for config in configs} == set(range(1, RUNS + 1))
    assert not [path for folder in folders for path in folder.rglob("*-v*")]
    for folder in folders:
        assert logged(folder) == ["3", "7"]


def test_runs_take_versions_of_their_own() -> None:
    assert fits(SAVE) == [0] * RUNS
    folders = sorted(Path("lightning_logs").iterdir())
    assert [path.name for path in folders] == [f"version_{number}" for number in range(RUNS)]
    assert_one_run_per_folder(folders)
    for path in folders:
        assert [file.name for file in path.glob("checkpoints/*")] == ["epoch=1-step=8.ckpt"]


def test_runs_with_one_version_log_beside_each_other() -> None:
    assert fits(FIXED, "--trainer.enable_checkpointing=false") == [0] * RUNS
    folders = sorted(Path("logs/lightning_logs").iterdir())
    assert [path.name for path in folders] == ["fixed", *(f"fixed-v{number}" for number in range(1, RUNS))]
    assert_one_run_per_folder(folders)


@pytest.mark.parametrize(("given", "name"), [(SHARED, "kept"), OF_THE_COMMAND_LINE])
def test_runs_do_not_mix_their_checkpoints(given: str, name: str) -> None:
    assert fits("--trainer.logger=false", given) == [0] * RUNS
    folders = sorted(Path().glob(f"{name}*"))
    assert [path.name for path in folders] == [name, *(f"{name}-v{number}" for number in range(1, RUNS))]
    epochs = ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"][-2 if given == SHARED else -1 :]
    for path in folders:
        assert sorted(file.name for file in path.iterdir()) == epochs


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_folder_is_free_again_when_its_run_has_ended() -> None:
    for _ in range(2):
        main([*FIT, "--trainer.logger=false", SHARED])
    assert len(list(Path("kept").iterdir())) == 4
    assert not Path("kept-v1").exists()


def test_a_run_that_is_refused_leaves_no_folder() -> None:
    before = set(Path().rglob("*"))
    with pytest.raises(SystemExit):
        main([*FIT, f"--data={__name__}.Refused", SAVE])
    assert set(Path().rglob("*")) == before


def test_another_process_has_no_part_in_a_claim() -> None:
    claims = Claims()
    assert claims.take("mine")
    assert claims.take("mine")
    assert not Claims().take("mine")
    if not (process := os.fork()):
        claims.release()
        os._exit(Path("mine").exists())
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    assert not Claims().take("mine")  # the fork has neither kept it nor let go of it
    claims.release()
    assert not Path("mine").exists()
    assert Claims().take("mine")


def test_a_folder_with_other_files_stays_when_it_is_let_go_of() -> None:
    claims = Claims()
    claims.take("a/b")
    Path("a/mine.txt").touch()
    claims.release()
    assert [path.name for path in Path("a").iterdir()] == ["mine.txt"]


def test_the_version_of_process_0_is_that_of_all() -> None:
    class Others(Trainer):
        """Process 1 of two."""

        world_size, is_global_zero = 2, False

    class Received:
        def broadcast(self, value: Any) -> Any:
            assert value is None
            return 7

    trainer = Others(accelerator="cpu", logger=CSVLogger("."), enable_checkpointing=False)
    claims = FolderClaims()
    claims.claim_logs(trainer)
    assert not Path("lightning_logs").exists()
    trainer.strategy.broadcast = Received().broadcast  # type: ignore[method-assign, assignment]
    claims.setup(trainer, None, "fit")  # type: ignore[arg-type]
    assert trainer.logger is not None
    assert trainer.logger.version == 7
