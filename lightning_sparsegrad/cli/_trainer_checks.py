"""Checks of the Trainer's arguments that Lightning accepts silently, or that fail much later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sparsegrad.errors import ConfigurationError, reason_of


def check_trainer(trainer: Trainer, *, fits: bool) -> None:
    """Check the arguments of a Trainer that Lightning accepts although they cannot work or have no effect.

    Args:
        trainer: The Trainer.
        fits: Whether the command trains.

    Raises:
        ConfigurationError: If an argument is out of range, contradicts another, or leaves nothing to train.
    """
    clip, log_every = trainer.gradient_clip_val, trainer.log_every_n_steps  # type: ignore[attr-defined]  # its connector's
    epochs, sanity = trainer.check_val_every_n_epoch, trainer.num_sanity_val_steps
    _require("accumulate_grad_batches", trainer.accumulate_grad_batches, "positive", lambda every: 1 <= every < 2**63)
    _require("gradient_clip_val", clip, "positive, or None", lambda most: most is None or most >= 0)
    _require("num_sanity_val_steps", sanity, "at least -1", lambda steps: steps >= -1)
    _require("log_every_n_steps", log_every, "at least 0", lambda steps: steps >= 0)
    _require("val_check_interval", trainer.val_check_interval, "positive", lambda interval: interval != 0)
    _require("check_val_every_n_epoch", epochs, "positive, or None", lambda every: every is None or every >= 1)
    _require_local("default_root_dir", trainer.default_root_dir)
    for callback in trainer.checkpoint_callbacks:
        _require_local("dirpath", getattr(callback, "dirpath", None) or "")
        if isinstance(callback, ModelCheckpoint):
            _require_template(callback)
    if fits:
        for name in ("max_epochs", "max_steps", "limit_train_batches"):
            _require(name, getattr(trainer, name), "positive: 0 trains nothing", lambda most: most != 0)
        for unit in ("epochs", "steps"):
            most, least = getattr(trainer, f"max_{unit}"), getattr(trainer, f"min_{unit}") or 0
            if most is not None and most != -1:
                _require(f"min_{unit}", least, f"at most `max_{unit} = {most}`", most.__ge__)


def _require_template(callback: ModelCheckpoint) -> None:
    """Refuse a template of file names that would fail at the first checkpoint."""
    try:
        callback.format_checkpoint_name({"epoch": torch.tensor(0), "step": torch.tensor(0)})
    except Exception as error:  # whatever formatting raises
        raise ConfigurationError(
            f"Parameter `filename` of `ModelCheckpoint` should be a template such as `{{epoch}}-{{val/loss:.2f}}`. "
            f"Found `filename = {callback.filename!r}`: {reason_of(error)}"
        ) from error


def _require_local(name: str, folder: object) -> None:
    """Refuse folders with `::` in their path: Lightning reads them as chained file systems and misplaces files."""
    path = str(folder) if "://" in str(folder) else str(Path(str(folder)).absolute())
    _require(name, path, "a folder without `::` in its path", lambda path: "::" not in path or "://" in path)


def _require(name: str, value: Any, allowed: str, is_allowed: Callable[[Any], bool]) -> None:
    if not is_allowed(value):
        raise ConfigurationError(f"Parameter `{name}` of the Trainer should be {allowed}. Found `{name} = {value}`.")
