"""Settings changed at the start of an epoch, metrics and validation draws continue within the epoch."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torchmetrics import MeanMetric, MinMaxMetric

from lightning_sparsegrad import ExactResume
from tests.lightning.tasks import STRATEGIES, Batch, through, trainer
from tests.resume.runs import (
    FitResult,
    Rows,
    Sensitive,
    alternating,
    assert_went_on,
    checkpoints,
    every_step,
    fit,
    result_of,
    shuffled,
    some_checkpoints,
)
from tests.resume.test_exact_resume import MASK_AND_CLIP, own_generator

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Switching(Callback):
    """Freezes, sets eval mode and changes the accumulation at the start of an epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network: Any = pl_module.network
        trainer.accumulate_grad_batches = 1 + trainer.current_epoch
        network.blocks.requires_grad_(trainer.current_epoch != 1)
        network.blocks.train(trainer.current_epoch != 1)
        pl_module.get_submodule("dropout").train(trainer.current_epoch != 1)


class Finetuning(BaseFinetuning):
    """Trains the blocks from the second epoch on."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.network.blocks)  # type: ignore[union-attr]

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network.blocks, optimizer, 0.001)  # type: ignore[union-attr]


class Trainable(Sensitive):
    """Gives the optimizer what is not frozen, without schedules, which would not know of groups that are added."""

    def configure_optimizers(self) -> Any:
        return [AdamW([each for each in self.parameters() if each.requires_grad], lr=0.01)], []


SWITCHES: dict[str, tuple[Callable[[], Callback], type[Sensitive]]] = {
    "accumulation by a schedule": (lambda: GradientAccumulationScheduler({0: 1, 1: 2, 2: 4}), Sensitive),
    "all that an epoch switches": (Switching, Sensitive),
    "finetuning": (Finetuning, Trainable),
}


@pytest.mark.resume
@pytest.mark.parametrize(("name", "strategy"), alternating(SWITCHES, ["mask and clip", "layers"]))
def test_what_hooks_switch_where_an_epoch_starts(name: str, strategy: str, tmp_path: Path):
    transform, (make, kind) = STRATEGIES[strategy], SWITCHES[name]
    _, whole = fit("module", transform, callbacks=[make(), *every_step(tmp_path)], kind=kind)
    for path in some_checkpoints(tmp_path, 3):
        _, resumed = fit("module", transform, callbacks=[make(), ExactResume()], kind=kind, path=path)
        assert_went_on(resumed, whole, path)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_no_window_is_open_where_a_checkpoint_is_written(tmp_path: Path):
    class Omitting(Sensitive):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            loss = super().training_step(batch, batch_idx)
            inside.append(not all(parameter.requires_grad for parameter in self.parameters()))
            return None if batch_idx in {2, 3, 6} else loss

    inside: list[bool] = []
    fit("module", STRATEGIES["head"], callbacks=every_step(tmp_path), kind=Omitting, max_epochs=1)
    assert any(inside)
    for path in checkpoints(tmp_path):
        (process,) = torch.load(path, weights_only=True)["exact_resume"]["processes"]
        assert process["switches"]["frozen"] == [], path


@pytest.mark.resume
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric val/loss which is not available")
@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
def test_the_order_of_a_validation_that_is_still_to_come(tmp_path: Path):
    class Validated(Sensitive):
        def val_dataloader(self) -> Any:
            return own_generator()

    def validated(callbacks: list[Callback], path: Path | None = None) -> FitResult:
        torch.manual_seed(0)
        task, _ = through("module", deepcopy(MASK_AND_CLIP), Validated)
        arguments: dict[str, Any] = {"num_sanity_val_steps": 2, "check_val_every_n_epoch": 2, "max_epochs": 2}
        saves = {"logger": Rows(), "log_every_n_steps": 1, "enable_checkpointing": path is None}
        run = trainer(callbacks=callbacks, **saves, **arguments)
        run.fit(task, shuffled(), ckpt_path=path)
        return result_of(run)

    whole = validated(every_step(tmp_path))
    for path in some_checkpoints(tmp_path, 2):
        assert_went_on(validated([ExactResume()], path), whole, path)


class Extremes(Sensitive):
    """Logs the least and largest loss of all epochs, which the metric keeps beside its state."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extremes = MinMaxMetric(MeanMetric())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        if loss is not None:
            self.extremes.update(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log_dict(self.extremes.compute())
        self.extremes._base_metric.reset()


@pytest.mark.resume
def test_a_metric_that_keeps_tensors_beside_its_state(tmp_path: Path):
    _, whole = fit("module", MASK_AND_CLIP, callbacks=every_step(tmp_path), kind=Extremes)
    for path in some_checkpoints(tmp_path, 2):
        _, resumed = fit("module", MASK_AND_CLIP, kind=Extremes, path=path)
        assert_went_on(resumed, whole, path)


def test_a_trainer_made_with_another_accumulation_keeps_its_own(tmp_path: Path):
    fit("module", MASK_AND_CLIP, callbacks=every_step(tmp_path))
    run, _ = fit("module", MASK_AND_CLIP, path=tmp_path / "step=10.ckpt", accumulate_grad_batches=2)
    assert run.accumulate_grad_batches == 2
