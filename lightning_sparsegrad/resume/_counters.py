"""Counters that Lightning does not save: reloads of loaders, batches of validations, checkpoints written."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sparsegrad.resume._lightning import (
    batches_of_validations,
    checkpoint_counters,
    reload_epochs,
    set_checkpoint_counters,
    set_reload_epochs,
)


def counters(trainer: Trainer) -> dict[str, Any]:
    """Return the counters of the loops and the ModelCheckpoints."""
    return {
        "loaders": reload_epochs(trainer),
        "batches": dict(batches_of_validations(trainer)),
        "validation": trainer.fit_loop.epoch_loop.val_loop.batch_progress.state_dict(),
        "checkpoints": {callback.state_key: checkpoint_counters(callback) for callback in _model_checkpoints(trainer)},
    }


def set_counters(trainer: Trainer, counted: dict[str, Any]) -> None:
    """Restore what `counters` returned."""
    batches_of_validations(trainer).update(counted["batches"])
    trainer.fit_loop.epoch_loop.val_loop.batch_progress.load_state_dict(counted["validation"])
    set_reload_epochs(trainer, counted["loaders"])
    for callback in _model_checkpoints(trainer):
        if saved := counted["checkpoints"].get(callback.state_key):
            set_checkpoint_counters(callback, saved)


def _model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
