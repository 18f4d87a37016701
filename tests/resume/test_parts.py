"""Pieces of the resume: atomic files, random states, and the option of the command line."""

import random
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_sparsegrad import ExactResume, SparseGradCLI
from lightning_sparsegrad.resume._atomic import AtomicCheckpointIO
from lightning_sparsegrad.resume._loaders import TrackedLoader
from lightning_sparsegrad.resume._randomness import random_states, set_random_states
from tests.command_line import DROP, LABELLED, QUICK, READER, SAVE
from tests.lightning.tasks import STRATEGIES
from tests.lightning.test_checkpoints import contents
from tests.resume.runs import every_step, fit, shuffled

CPU = torch.device("cpu")


class Failing:
    """Fails when half of what is before it in a checkpoint is written."""

    def __reduce__(self) -> Any:
        raise OSError("no space left")


def test_a_write_that_fails_leaves_the_checkpoint_that_was_there(tmp_path: Path):
    path, writing = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writing.save_checkpoint({"value": torch.ones(3)}, path)
    with pytest.raises(OSError, match="no space left"):
        writing.save_checkpoint({"value": torch.zeros(300_000), "failing": Failing()}, path)
    assert torch.equal(torch.load(path, weights_only=True)["value"], torch.ones(3))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt"]
    writing.save_checkpoint({"value": torch.zeros(3)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["value"], torch.zeros(3))


def test_what_was_left_half_written_goes_on_a_resume(tmp_path: Path):
    path, writing = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writing.save_checkpoint({}, path)
    (tmp_path / ".step=7.ckpt.0123456789abcdef.part").write_bytes(b"half")
    (tmp_path / ".mine.part").touch()
    writing.load_checkpoint(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".mine.part", "last.ckpt"]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path):
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "step=1.ckpt")
    (tmp_path / "last.ckpt").symlink_to("step=1.ckpt")
    AtomicCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert [torch.load(tmp_path / name)["step"] for name in ("step=1.ckpt", "last.ckpt")] == [1, 2]


def test_a_loader_that_is_tracked_can_be_copied():
    tracked = TrackedLoader(shuffled())
    assert copy(tracked).loader is tracked.loader
    assert len(deepcopy(tracked)) == len(tracked)
    assert tracked.batch_size == 2


def test_lightnings_own_writing_is_replaced_and_no_other(tmp_path: Path):
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    run, _ = fit("module", STRATEGIES["head"], callbacks=every_step(tmp_path), plugins=[own], max_epochs=1)
    assert run.strategy.checkpoint_io is own
    run, _ = fit("module", STRATEGIES["head"], max_epochs=1)
    assert type(run.strategy.checkpoint_io) is AtomicCheckpointIO


def test_all_random_states_go_on():
    def draw() -> list[Any]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()]  # noqa: S311

    draw()
    states = random_states(CPU)
    expected = draw()
    draw()
    set_random_states(states, CPU)
    assert draw() == expected


def test_states_are_numbers_and_tensors(tmp_path: Path):
    fit("module", STRATEGIES["head"], callbacks=every_step(tmp_path), max_epochs=1)
    stored = torch.load(tmp_path / "step=3.ckpt", weights_only=True)["exact_resume"]
    assert {type(value) for value in contents(stored)} <= {str, int, float, bool, type(None), Tensor}


def resuming(trainer: Trainer) -> list[ExactResume]:
    return [callback for callback in trainer.callbacks if isinstance(callback, ExactResume)]  # type: ignore[attr-defined]


def test_the_command_line_has_it_by_default_and_once(tmp_path: Path):
    arguments = ["fit", READER, LABELLED, *DROP, *QUICK, f"--trainer.default_root_dir={tmp_path}"]
    cli = SparseGradCLI(args=[*arguments, SAVE])
    assert len(resuming(cli.trainer)) == 1
    (path,) = tmp_path.glob("**/*.ckpt")
    assert "exact_resume" in torch.load(path, weights_only=True)
    assert len(resuming(SparseGradCLI(args=[*arguments, "--trainer.callbacks=ExactResume"]).trainer)) == 1
    assert not resuming(SparseGradCLI(args=[*arguments, "--exact_resume=false"]).trainer)
