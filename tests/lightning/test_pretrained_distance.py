"""The files of `PretrainedDistance`, against the weights themselves."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD

from lightning_sparsegrad import ConfigurationError, ExactResume, Identity, PretrainedDistance
from lightning_sparsegrad.callbacks._history import read_history
from tests.lightning.tasks import BATCHES, WIDTH, Regression, loader, through, trainer
from tests.transforms.small import on_one_thread

_ = pytest.fixture(autouse=True, scope="module")(on_one_thread)


class Weights(Callback):
    """Keeps the weights of every step."""

    def __init__(self) -> None:
        self.by_step: dict[int, dict[str, Tensor]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._keep(trainer, pl_module)

    def _keep(self, trainer: Trainer, module: LightningModule) -> None:
        self.by_step[trainer.global_step] = {n: p.detach().double().clone() for n, p in module.named_parameters()}


class MadeLate(LightningModule):
    """Makes its weights where only those of a strategy that restores late are there before a checkpoint."""

    def configure_model(self) -> None:
        if not hasattr(self, "layer"):
            self.layer = nn.Linear(WIDTH, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        return mse_loss(self.layer(inputs), targets)

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.01)


def run(path: Path, *, every: int = 2, checkpoint: str | None = None, **arguments: Any) -> Weights:
    seed_everything(3, verbose=False)
    weights = Weights()
    task, callbacks = through("callback", Identity())
    callbacks += [weights, PretrainedDistance(every, path=str(path), components="tensor")]
    callbacks += arguments.pop("callbacks", [])
    trainer(callbacks=callbacks, max_epochs=2, **arguments).fit(task, loader(), ckpt_path=checkpoint)
    return weights


def test_distances_are_those_of_the_weights(tmp_path: Path) -> None:
    weights = run(tmp_path / "distances.csv").by_step
    history = read_history(tmp_path / "distances.csv")
    last = max(weights)
    assert list(history["step"].unique()) == sorted({*range(0, last + 1, 2), last})
    for row in history.itertuples():
        now, start = weights[row.step][row.component].flatten(), weights[0][row.component].flatten()
        assert row.rms == pytest.approx(float((now - start).square().mean().sqrt()), rel=1e-6, abs=1e-12)
        assert row.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(now, start, dim=0)), rel=1e-7)
    assert history[history["step"] == last]["rms"].min() > 0


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_fit_measures_from_where_the_first_one_started(tmp_path: Path) -> None:
    def saving(folder: str) -> dict[str, Any]:
        callback = ModelCheckpoint(tmp_path / folder, save_top_k=-1, every_n_train_steps=3)
        return {"callbacks": [callback, ExactResume()], "enable_checkpointing": True}

    weights = run(tmp_path / "whole.csv", **saving("first")).by_step
    earlier = min((tmp_path / "first").glob("*.ckpt"))
    again = run(tmp_path / "again.csv", checkpoint=str(earlier), **saving("second")).by_step
    history = read_history(tmp_path / "again.csv")
    assert min(history["step"]) == 0  # of the run before
    for row in history[history["step"] > 3].itertuples():
        moved = again[row.step][row.component] - weights[0][row.component]
        assert row.rms == pytest.approx(float(moved.square().mean().sqrt()), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_a_resumed_fit_has_the_rows_of_one_that_never_stopped(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=4)
    run(tmp_path / "distances.csv", callbacks=[saving, ExactResume()], enable_checkpointing=True)
    whole = read_history(tmp_path / "distances.csv")
    run(tmp_path / "distances.csv", checkpoint=str(next(tmp_path.glob("*step=4.ckpt"))), callbacks=[ExactResume()])
    pd.testing.assert_frame_equal(read_history(tmp_path / "distances.csv"), whole)
    pd.testing.assert_frame_equal(read_history(tmp_path / "distances-v1.csv"), whole)


def test_a_second_fit_measures_from_where_the_first_one_started(tmp_path: Path) -> None:
    weights, task = Weights(), Regression()
    run = trainer(callbacks=[weights, PretrainedDistance(2, path=str(tmp_path / "distances.csv"), components="tensor")])
    run.fit(task, loader())
    run.fit_loop.max_epochs = 2
    run.fit(task, loader())
    history = read_history(tmp_path / "distances.csv")
    assert list(history["step"].unique()) == list(range(0, 2 * BATCHES + 1, 2))
    for row in history.itertuples():
        moved = weights.by_step[row.step][row.component] - weights.by_step[0][row.component]
        assert row.rms == pytest.approx(float(moved.square().mean().sqrt()), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_weights_that_are_made_late_are_measured_from_where_they_start(tmp_path: Path) -> None:
    path = tmp_path / "distances.csv"
    saving = ModelCheckpoint(tmp_path, save_last=True)
    trainer(callbacks=[PretrainedDistance(2, path=str(path)), saving], enable_checkpointing=True).fit(
        MadeLate(), loader()
    )
    assert list(read_history(path).query("step == 0")["rms"]) == [0, 0]
    again = trainer(callbacks=[PretrainedDistance(2, path=str(path))], max_epochs=2)
    with pytest.warns(UserWarning, match=r"weights of the checkpoint .* `layer\.weight`"):
        again.fit(MadeLate(), loader(), ckpt_path=str(tmp_path / "last.ckpt"))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`every_n_steps` should be a positive integer\. Found .* = -3`"):
        PretrainedDistance(-3)
    with pytest.raises(ConfigurationError, match=r"Parameter `path` should end with \.parquet or \.csv\. Found"):
        PretrainedDistance(path="distances")
