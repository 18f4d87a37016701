"""Arguments of a Trainer that Lightning takes without a word, or stumbles over much later."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sparsegrad.errors import MAX_SEED, ConfigurationError, reason_of

_LARGEST_INTEGER = 2**63


def check_trainer(trainer: Trainer, *, fits: bool) -> None:
    """Check what Lightning accepts although it cannot work, or does nothing.

    Args:
        trainer: The Trainer.
        fits: Whether it is about to train.

    Raises:
        ConfigurationError: If an argument is out of range, contradicts another, or leaves nothing to do.
    """
    every = trainer.accumulate_grad_batches
    _require(1 <= every < _LARGEST_INTEGER, "accumulate_grad_batches", every, "positive")
    _require(_may_clip(trainer.gradient_clip_val), "gradient_clip_val", trainer.gradient_clip_val, "positive, or None")
    _require(trainer.num_sanity_val_steps >= -1, "num_sanity_val_steps", trainer.num_sanity_val_steps, "at least -1")
    _require(trainer.log_every_n_steps >= 0, "log_every_n_steps", trainer.log_every_n_steps, "at least 0")  # type: ignore[attr-defined]  # set by its connector
    _require(trainer.val_check_interval != 0, "val_check_interval", trainer.val_check_interval, "positive")
    epochs = trainer.check_val_every_n_epoch
    _require(epochs is None or epochs >= 1, "check_val_every_n_epoch", epochs, "positive, or None")
    _require_local(trainer)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            _require_template(callback)
    if fits:
        _require_something_to_train(trainer)


def _require_something_to_train(trainer: Trainer) -> None:
    for name, value in (
        ("max_epochs", trainer.max_epochs),
        ("max_steps", trainer.max_steps),
        ("limit_train_batches", trainer.limit_train_batches),
    ):
        _require(value != 0, name, value, "positive: 0 trains nothing")
    for unit, most, least in (
        ("epochs", trainer.max_epochs, trainer.min_epochs),
        ("steps", trainer.max_steps, trainer.min_steps),
    ):
        if most is not None and most != -1 and (least or 0) > most:
            raise ConfigurationError(
                f"Parameter `min_{unit}` of the Trainer should be at most `max_{unit} = {most}`. "
                f"Found `min_{unit} = {least}`."
            )


def _require_template(callback: ModelCheckpoint) -> None:
    """Refuse a template of names that would end a fit at its first checkpoint."""
    try:
        callback.format_checkpoint_name({"epoch": torch.tensor(0), "step": torch.tensor(0)})
    except Exception as error:  # whatever formatting raises
        raise ConfigurationError(
            f"Parameter `filename` of `ModelCheckpoint` should be a template such as `{{epoch}}-{{val/loss:.2f}}`. "
            f"Found `filename = {callback.filename!r}`: {reason_of(error)}"
        ) from error


def _require_local(trainer: Trainer) -> None:
    """Refuse folders with `::` in their path: Lightning takes them for chains of file systems, and misplaces files."""
    folders = {"default_root_dir": trainer.default_root_dir}
    for callback in trainer.checkpoint_callbacks:
        folders["dirpath"] = getattr(callback, "dirpath", None) or ""
    for name, folder in folders.items():
        path = str(folder) if "://" in str(folder) else str(Path(folder).absolute())
        _require("::" not in path or "://" in path, name, path, "a folder without `::` in its path")


def _may_clip(value: Any) -> bool:
    return value is None or value >= 0


def _require(is_allowed: bool, name: str, value: Any, allowed: str) -> None:
    if not is_allowed:
        raise ConfigurationError(f"Parameter `{name}` of the Trainer should be {allowed}. Found `{name} = {value}`.")


def require_seed(config: Any) -> None:
    """Check the `seed_everything` of a command line.

    Raises:
        ConfigurationError: If it is no seed of numpy.
    """
    seed = config.get("seed_everything")
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed <= MAX_SEED:
        raise ConfigurationError(
            f"Parameter `seed_everything` should be from 0 to {MAX_SEED}. Found `seed_everything = {seed}`."
        )
