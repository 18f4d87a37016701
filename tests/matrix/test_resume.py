"""Resume: a run that resumes from any optimizer step trains the weights of the uninterrupted run."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_sparsegrad import ExactResume, SparseMask
from tests.lightning.tasks import assert_same_weights, door_of, through, trainer, weights
from tests.reference import keep_all
from tests.transforms.golden import Golden
from tests.transforms.small import TOTAL_STEPS, flat

from .task import ACCUMULATE, EPOCHS, SIZE, Adaptive, every_row, samples

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Dropping(Adaptive):
    """Drops out words at random."""

    def loss(self, tokens: Tensor) -> Tensor:
        return super().loss(tokens.where(torch.rand(tokens.shape) > 0.3, 0))


def fit(door: str, row: Golden, folder: Path, step: int | None = None) -> Trainer:
    """Train on shuffled data, with a checkpoint of every step; from one of them, without."""
    task, doors = through(door, row.transform, Dropping)
    saving = [ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")] if step is None else []
    run = trainer(
        callbacks=[*doors, *saving, ExactResume()],
        enable_checkpointing=bool(saving),
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATE,
    )
    path = None if step is None else folder / f"step={step}.ckpt"
    torch.manual_seed(0 if step is None else 99)
    run.fit(task, DataLoader(samples(), batch_size=SIZE, shuffle=True), ckpt_path=path)  # type: ignore[arg-type]
    return run


CALIBRATES = Golden(SparseMask(0.1, calibration_windows=4), (), does=keep_all)  # in more windows than golden rows do


@pytest.mark.parametrize(
    ("door", "steps"), [("module", [2]), pytest.param("callback", [1, 3, 4, 5], marks=pytest.mark.long)]
)
def test_a_run_resumed_inside_its_calibration_is_one_that_never_stopped(
    door: str, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumes(CALIBRATES, door, steps, tmp_path, monkeypatch)


@every_row
@pytest.mark.parametrize(
    ("door", "steps"), [("module", [3]), pytest.param("callback", [1, 2, 4, 5], marks=pytest.mark.long)]
)
def test_a_resumed_run_is_one_that_never_stopped(
    row: Golden, door: str, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumes(row, door, steps, tmp_path, monkeypatch)


def assert_resumes(row: Golden, door: str, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(door, row, tmp_path)
    assert whole.global_step == TOTAL_STEPS
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    for step in steps:
        resumed = fit(door, row, tmp_path, step)
        assert resumed.global_step == TOTAL_STEPS
        assert_same_weights(weights(resumed), weights(whole))
        states = [door_of(run).gradient_engine.transform.state_dict() for run in (resumed, whole)]
        assert flat(states[0]) == flat(states[1])
