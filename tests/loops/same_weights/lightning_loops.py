"""Lightning's Trainer, through a module of the library and through its callback."""

import os
from typing import Any
from unittest.mock import patch

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_sparsegrad import ExactResume, GradientTransformCallback, SparseGradModule
from tests.lightning.tasks import Weights, trainer

from .task import ACCUMULATE, EPOCHS, SAVE_EVERY, Batch, Job, Tiny, micro_batches, new_optimizer, weights_of


class Task(Tiny, LightningModule):
    """The model as a module."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self(**batch)["loss"]  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Optimizer:
        return new_optimizer(self)


class SparseTask(Task, SparseGradModule):
    """The model as a module of the library."""


def by_module(job: Job) -> Weights:
    return _fit(job, SparseTask(job.factor, gradient_transform=job.transform), [])


def by_callback(job: Job) -> Weights:
    return _fit(job, Task(job.factor), [GradientTransformCallback(job.transform)])


def _fit(job: Job, task: LightningModule, callbacks: list[Callback]) -> Weights:
    if job.saves:
        callbacks.append(ModelCheckpoint(job.folder, every_n_train_steps=SAVE_EVERY, save_top_k=-1, filename="{step}"))
    if job.saves or job.resume:
        callbacks.append(ExactResume())  # else Lightning begins the data of the epoch again
    run = trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATE,
        enable_checkpointing=job.saves,
        callbacks=callbacks,
        devices=job.world,
        strategy=DDPStrategy(find_unused_parameters=True) if job.world > 1 else "auto",
        use_distributed_sampler=False,
    )
    data: Any = micro_batches(job)
    with patch.dict(os.environ, PL_GLOBAL_SEED=str(job.seed)):
        run.fit(
            task,
            DataLoader(data, batch_size=None),
            ckpt_path=job.folder / f"step={job.resume}.ckpt" if job.resume else None,
        )
    return weights_of(task)
