"""A fit that takes no step: its engine describes itself, and a clip measures the gradients of some windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil, isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import SGD, Optimizer
from typing_extensions import override

from lightning_sparsegrad.callbacks import GradientTransformCallback
from lightning_sparsegrad.engine import Description, GradientEngine
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.explain._norms import Norms
from lightning_sparsegrad.loops._callbacks import find_callback, put_first
from lightning_sparsegrad.loops._lightning_adapter import steps_of
from lightning_sparsegrad.modules.base import SparseGradModule
from lightning_sparsegrad.resume._checkpoints import about_checkpoint


class Explained(Exception):  # noqa: N818  # no error
    """The fit has begun, and there is no more to see."""


class Unmoved(SingleDeviceStrategy):
    """One process that leaves the model on the device where it is."""

    def __init__(self) -> None:
        super().__init__(device="cpu")

    @override
    def model_to_device(self) -> None:
        pass

    @override
    def teardown(self) -> None:
        pass


class Rehearsal(Callback):
    """Describes the engine of a fit, and measures the gradients of its first windows without a step.

    Args:
        windows: How many windows to measure; 0 ends the fit before its first.
        why_whole: Why gradients that are dropped are computed all the same.

    Attributes:
        description: What the strategy will do, once the fit has begun.
        has_data: Whether the data have been set up.
    """

    def __init__(self, *, windows: int, why_whole: str | None) -> None:
        self._windows, self._why_whole = windows, why_whole
        self.description: Description | None = None
        self._norms: Norms | None = None
        self._seen, self.has_data = 0, False

    def join(self, trainer: Trainer, module: LightningModule) -> None:
        """Have a fit rehearsed: its optimizer moves nothing, and this is the first of its callbacks."""
        module.configure_optimizers = partial(_still, module)  # type: ignore[method-assign]
        module.optimizer_step = partial(self._window_end, trainer)  # type: ignore[method-assign]
        put_first(trainer, self)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.has_data = True  # which Lightning sets up before

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        engine = _engine(trainer, pl_module)
        if self._why_whole:
            engine.compute_everything(self._why_whole)
        self.description = engine.describe(steps_of(trainer), steps_per_epoch=_steps_per_epoch(trainer))
        if not self._windows:
            raise Explained
        if not pl_module.automatic_optimization:
            raise ConfigurationError(
                f"Parameter `windows` should be left out under manual optimization. Found `{type(pl_module).__name__}`."
            )
        self._norms = Norms(engine)

    def _window_end(
        self,
        trainer: Trainer,
        epoch: int,  # noqa: ARG002  # as the hook is called
        batch_idx: int,  # noqa: ARG002
        optimizer: Optimizer,
        optimizer_closure: Callable[[], Any],
    ) -> None:
        """Compute the last gradients of a window, in place of `LightningModule.optimizer_step`."""
        optimizer_closure()
        assert self._norms is not None  # noqa: S101  # the fit has started
        self._norms.add()
        self._seen += 1
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:  # lowers its scale as it would
            scaler.unscale_(optimizer)
            scaler.update()
        if self._seen >= self._windows:
            trainer.should_stop = True

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        assert self.description is not None  # noqa: S101  # the fit has started
        norms = {} if self._norms is None else {"norms": self._norms.table().as_dict()}
        return {**self.description.as_dict(), **norms}

    @override
    def __str__(self) -> str:
        return str(self.description) + ("" if self._norms is None else f"\n\n{self._norms.table()}")


def _steps_per_epoch(trainer: Trainer) -> int | None:
    """Return the optimizer steps of an epoch, `None` if that is not known or epochs differ."""
    scheduler = find_callback(trainer, GradientAccumulationScheduler)
    if scheduler is not None and len(set(scheduler.scheduling.values())) > 1:
        return None
    batches = trainer.num_training_batches
    return ceil(batches / trainer.accumulate_grad_batches) if isfinite(batches) else None


def _engine(trainer: Trainer, module: LightningModule) -> GradientEngine:
    if isinstance(module, SparseGradModule):
        return module.gradient_engine
    if (callback := find_callback(trainer, GradientTransformCallback)) is not None:
        return callback.gradient_engine
    raise ConfigurationError(
        f"`explain` should be given a `SparseGradModule` or a `GradientTransformCallback`. "
        f"Found neither with `{type(module).__name__}`."
    )


def _still(module: LightningModule) -> Optimizer:
    """Return an optimizer that holds what trains and is never stepped."""
    return SGD([parameter for parameter in module.parameters() if parameter.requires_grad], lr=0.0)


def load_weights(module: LightningModule, path: str) -> None:
    """Give a module the weights of a checkpoint.

    Raises:
        ConfigurationError: If it cannot be read, or is of another model.
    """
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except Exception as error:  # torch has no one class for what is wrong with a file
        raise ConfigurationError(about_checkpoint(path, error)) from error
