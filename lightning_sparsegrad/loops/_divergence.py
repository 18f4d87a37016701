"""Divergence: weights or a validation loss that are not finite at the end of a fit."""

import re
from collections.abc import Iterator
from math import inf, isfinite

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_sparsegrad.loops._callbacks import callbacks_of

_VALIDATION = re.compile(r"(?:^|[\W_])(?:val|valid|validation|dev|eval)(?:[\W_]|$)", re.IGNORECASE)
_TRAINING = re.compile(r"(?:^|[\W_])train(?:ing)?(?:[\W_]|$)", re.IGNORECASE)


class DivergenceWarning(UserWarning):
    """A fit ended with weights or a validation loss that are not finite."""


class DivergenceCheck(Callback):
    """A callback that warns at the end of a fit whose weights or validation loss are not finite.

    It reads the weights once, after the last step. `warnings.simplefilter("error", DivergenceWarning)` turns the
    warning into an error.
    """

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if fault := divergence_of(trainer):
            rank_zero_warn(fault, category=DivergenceWarning)


def divergence_of(trainer: Trainer) -> str | None:
    """Return a message if a fit has ended with weights or a validation loss that are not finite; else `None`.

    A training loss does not count, since a window skipped by `nonfinite="skip"` or a gradient scaler leaves an infinite
    or undefined loss with finite weights. Frozen weights, which no fit changes, do not count either.

    Args:
        trainer: The Trainer after the last step. Every process has to call this, since each holds its own shards.
    """
    bad = _weights(trainer.lightning_module)
    losses = [f"`{name}` = {value}" for name, value in _losses(trainer) if not isfinite(value)]
    if not trainer.strategy.reduce_boolean_decision(bool(bad or losses), all=False):
        return None
    what = "weights or a validation loss that are not finite on another process"
    if bad:
        what = f"weights that are not finite: `{bad[0]}`" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
    elif losses:
        what = f"a validation loss that is not finite: {', '.join(losses)}"
    in_half = any(parameter.dtype == torch.float16 for parameter in trainer.lightning_module.parameters())
    advice = (
        "Weights in float16 overflow; those in float32 with `precision='16-mixed'` of the Trainer do not."
        if in_half
        else "A smaller learning rate or `nonfinite='skip'` may help."
    )
    return (
        f"The fit ended with {what}. Its files are kept, but are not a result. {advice} "
        f"`nonfinite='raise'` ends a fit at the first gradient that is not finite."
    )


def _weights(module: torch.nn.Module) -> list[str]:
    """Return the trainable parameters held by this process that are not finite."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not _is_finite(parameter.detach())
    ]


def _is_finite(tensor: torch.Tensor) -> bool:
    local: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    # a norm needs no memory; `isfinite` needs that of the largest embedding
    return not local.numel() or isfinite(torch.linalg.vector_norm(local, inf))


def is_of_validation(name: str) -> bool:
    """Return whether a metric is named like one of a validation: `val/accuracy`, `valid_loss`."""
    return bool(_VALIDATION.search(name)) and not _TRAINING.search(name)


def is_validation_loss(name: str) -> bool:
    """Return whether a metric is named like the loss of a validation: `val/loss/de`, `valid_loss`."""
    return "loss" in name.lower() and is_of_validation(name)


def _losses(trainer: Trainer) -> Iterator[tuple[str, float]]:
    """Yield the last values of the metrics that are named or monitored as validation losses."""
    callbacks = callbacks_of(trainer)
    monitored = {callback.monitor for callback in callbacks if isinstance(callback, EarlyStopping | ModelCheckpoint)}
    for name, value in trainer.callback_metrics.items():
        is_monitored = name in monitored and "loss" in name.lower() and not _TRAINING.search(name)
        if is_monitored or is_validation_loss(name):
            yield name, float(value)
