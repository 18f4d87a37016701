"""Fits of the tower, whole and resumed, and their results, bit by bit."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import Optimizer

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ExactResume,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    LayerGradDrop,
    SparseGradCLI,
)
from tests.compatibility.loop import clips, digest
from tests.compatibility.model import Rows, TowerTask
from tests.compatibility.strategies import WatchedLayerGradDrop

STOPPED = 3  # steps, of five in an epoch
RESUMED: dict[str, Callable[[], GradientTransform]] = {
    "mask and clip": lambda: Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.5)}),
    "layers": lambda: LayerGradDrop(0.5),
    "unfreezing": GradualUnfreezing,
    "watched": lambda: WatchedLayerGradDrop(0.5),
}
COMMAND = [
    "fit",
    "--model=tests.compatibility.model.TowerTask",
    "--model.optimizer=sgd",
    "--model.gradient_transform=Chain",
    '--model.gradient_transform.transforms={"mask": {"class_path": "GradDrop", "init_args": {"rate": 0.5}},'
    ' "clip": {"class_path": "lightning_sparsegrad.ComponentNormClip", "init_args": {"max_norm": 0.5}}}',
    "--data=tests.compatibility.model.Rows",
    "--seed_everything=1",
]


class Recorder(Callback):
    """Keeps a hash of the gradients before every optimizer step."""

    def __init__(self) -> None:
        self.gradients: list[str] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.gradients.append(digest({name: parameter.grad for name, parameter in pl_module.named_parameters()}))


def fit(
    name: str,
    transform: GradientTransform,
    *,
    folder: Path | None = None,
    path: Path | None = None,
) -> dict[str, Any]:
    """Fit the tower; return hashes of the result.

    Args:
        name: The strategy's name, which says whether it clips.
        transform: The strategy.
        folder: Where to save a checkpoint after `STOPPED` steps, if anywhere.
        path: The checkpoint to resume from, if any.
    """
    os.environ["PL_GLOBAL_SEED"] = "3"  # the seed of a run that does not resume one
    torch.manual_seed(7 if path is None else 99)
    recorder = Recorder()
    callbacks = [recorder, ExactResume(), *saving(folder)]
    task = TowerTask(transform, optimizer="sgd" if clips(name) else "adamw")
    trainer = Trainer(**quiet(callbacks=callbacks, enable_checkpointing=folder is not None))
    trainer.fit(task, datamodule=Rows(), ckpt_path=path, weights_only=True if path else None)
    return fit_result(trainer, recorder)


def command(folder: Path | None = None, path: Path | None = None) -> dict[str, Any]:
    """Fit the tower on the command line; of a run that is resumed, the checkpoint knows the model and its data."""
    recorder = Recorder()
    cli = SparseGradCLI(
        args=[*(COMMAND if path is None else ["fit", f"--ckpt_path={path}", "--seed_everything=1"])],
        trainer_defaults=quiet(callbacks=[recorder, *saving(folder)], enable_checkpointing=folder is not None),
    )
    return fit_result(cli.trainer, recorder)


def saving(folder: Path | None) -> list[Callback]:
    """Return what saves a checkpoint into a folder, if there is one."""
    if folder is None:
        return []
    return [ModelCheckpoint(folder, every_n_train_steps=STOPPED, filename="{step}", save_top_k=-1)]


def quiet(**arguments: Any) -> dict[str, Any]:
    """Return a Trainer's arguments."""
    return {
        "accelerator": "cpu",
        "max_epochs": 2,
        "accumulate_grad_batches": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        **arguments,
    }


def fit_result(trainer: Trainer, recorder: Recorder) -> dict[str, Any]:
    """Return hashes of the result of a fit."""
    (optimizer,), task = trainer.optimizers, trainer.lightning_module
    assert isinstance(task, TowerTask)
    states = optimizer.state_dict()["state"]
    moments = {f"{index}.{key}": value for index, state in states.items() for key, value in state.items()}
    return {
        "gradients": recorder.gradients,
        "weights": digest(dict(task.named_parameters())),
        "moments": digest(moments),
        "total": getattr(task.gradient_engine.transform, "total", None),
        "random": int(torch.randint(1 << 30, ())),
    }
