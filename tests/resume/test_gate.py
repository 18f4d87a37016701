"""The gate that both doors pass to the adapter: what it puts into checkpoints, and how it sees open windows."""

from itertools import product
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_sparsegrad import ConfigurationError, ExactResume, Identity
from lightning_sparsegrad.resume._hyperparameters import HYPERPARAMETERS_KEY
from tests.lightning.tasks import DOORS, STRATEGIES, Batch, Regression, fit, loader, through, trainer
from tests.lightning.test_manual_optimization import Manual
from tests.resume.test_waiting import Ask, step_of

pytestmark = [
    pytest.mark.parametrize("door", DOORS),
    pytest.mark.filterwarnings("ignore:Gradients that are dropped whole are computed nevertheless"),
]


def test_under_manual_optimization_a_checkpoint_waits_while_gradients_do(
    door: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for exact, (batch, at_once, step) in product(
        (True, False), ((0, False, 1), (1, False, 1), (2, True, 1), (3, False, 2))
    ):
        with subtests.test(exact=exact, batch=batch):
            asking = Ask(tmp_path / f"{exact} {batch}.ckpt", "on_train_batch_end", batch)
            fit(door, STRATEGIES["mask and clip"], Manual, callbacks=[*([ExactResume()] if exact else []), asking])
            assert asking.at_once == (at_once and not exact)  # an exact resume waits for the next batch
            assert step_of(asking.path) == step


def test_a_checkpoint_holds_what_the_optimizer_was_made_with(door: str, tmp_path: Path) -> None:
    run = fit(door, Identity())
    run.save_checkpoint(tmp_path / "last.ckpt")
    (made,) = torch.load(tmp_path / "last.ckpt", weights_only=True)[HYPERPARAMETERS_KEY]
    assert made["class"].endswith(type(run.optimizers[0]).__name__)
    assert made["groups"][0]["lr"] == run.optimizers[0].defaults["lr"]


def test_a_damaged_checkpoint_is_refused_before_anything_is_restored(door: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    fit(door, Identity()).save_checkpoint(path)
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["state_dict"]
    at = content.index(next(iter(weights.values())).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    task, callbacks = through(door, Identity())
    with pytest.raises(ConfigurationError, match="`ckpt_path` should name a checkpoint as it was written"):
        trainer(callbacks=callbacks, max_epochs=2).fit(task, loader(), loader(2), ckpt_path=path)


class Failing(Regression):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if batch_idx == 4:
            raise ArithmeticError("in the second window")
        return super().training_step(batch, batch_idx)


class AskAfterException(Callback):
    """Asks for a checkpoint when a fit has failed, and notes whether it is there at once."""

    def __init__(self, path: Path) -> None:
        self.path, self.at_once = path, False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)
        self.at_once = self.path.exists()


def test_after_an_exception_nothing_waits_for_a_window_that_does_not_end(door: str, tmp_path: Path) -> None:
    asking = AskAfterException(tmp_path / "asked.ckpt")
    with pytest.warns(UserWarning, match="is not exact"), pytest.raises(ArithmeticError):
        fit(door, Identity(), Failing, callbacks=[asking], accumulate_grad_batches=3)
    assert asking.at_once
    assert step_of(asking.path) == 1
