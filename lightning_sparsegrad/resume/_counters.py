"""Counters that Lightning does not keep: when loaders are made anew, batches of validations, checkpoints written."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

# without these, the first micro-batch after a resume would have the checkpoint gone on from written again
_OF_CHECKPOINTS = ("_last_global_step_saved", "_last_checkpoint_saved", "_defer_save_until_validation")


def counters(trainer: Trainer) -> dict[str, Any]:
    """Return what the loops and the ModelCheckpoints count."""
    loop, validation = trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop
    return {
        "loaders": [loop._last_train_dl_reload_epoch, validation._last_val_dl_reload_epoch],
        "batches": dict(validation._seen_batches_per_dataloader),  # the steps at which they are logged
        "validation": validation.batch_progress.state_dict(),
        "checkpoints": {
            callback.state_key: {name: getattr(callback, name) for name in _OF_CHECKPOINTS}
            for callback in _model_checkpoints(trainer)
        },
    }


def set_counters(trainer: Trainer, counted: dict[str, Any]) -> None:
    """Restore what `counters` returned."""
    loop, validation = trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop
    validation._seen_batches_per_dataloader.update(counted["batches"])
    validation.batch_progress.load_state_dict(counted["validation"])
    loop._last_train_dl_reload_epoch, validation._last_val_dl_reload_epoch = counted["loaders"]
    for callback in _model_checkpoints(trainer):
        saved = counted["checkpoints"].get(callback.state_key)
        for name in _OF_CHECKPOINTS if saved else ():
            setattr(callback, name, saved[name])


def _model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
