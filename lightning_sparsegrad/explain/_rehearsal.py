"""A fit that takes no step: its engine describes itself, and a clip measures the gradients of some windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import ceil, isfinite
from typing import Any, NoReturn

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import SGD, Optimizer
from typing_extensions import override

from lightning_sparsegrad.callbacks import GradientTransformCallback
from lightning_sparsegrad.engine import Description
from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.explain._held import only_held
from lightning_sparsegrad.explain._norms import Norms
from lightning_sparsegrad.loops._callbacks import find_callback, put_first
from lightning_sparsegrad.loops._lightning_adapter import AdapterOwner, steps_of
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
        notes: What the rehearsal leaves out of the fit, a line each.

    Attributes:
        description: What the strategy will do, once the fit has begun.
        has_data: Whether the data have been set up.
    """

    def __init__(self, *, windows: int, why_whole: str | None, notes: Iterable[str] = ()) -> None:
        self._windows, self._why_whole, self._notes = windows, why_whole, [*notes]
        self.description: Description | None = None
        self._norms: Norms | None = None
        self._seen, self.has_data = 0, False

    def join(self, trainer: Trainer, module: LightningModule) -> None:
        """Have a fit rehearsed: its optimizers move nothing, and this is the first of its callbacks."""
        configure = module.configure_optimizers
        module.configure_optimizers = partial(self._configure, module, configure)  # type: ignore[method-assign]
        replace_steps(module, partial(self._window_end, trainer, module))
        put_first(trainer, self)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.has_data = True  # which Lightning sets up before

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.lr_scheduler_configs = []  # what they would scale is never stepped
        engine = owner_of_adapter(trainer, pl_module)._loop_adapter.engine
        if self._why_whole:
            engine.compute_everything(self._why_whole)
        try:
            description = engine.describe(steps_of(trainer), steps_per_epoch=_steps_per_epoch(trainer))
        except ConfigurationError as error:
            _raise_about_epochs(trainer, error)
        self.description, line = only_held(description, engine.parameters, trainer.optimizers)
        self._notes += [] if line is None else [line]
        if not self._windows:
            raise Explained
        if not pl_module.automatic_optimization:
            raise ConfigurationError(
                f"Parameter `windows` should be left out under manual optimization. Found `{type(pl_module).__name__}`."
            )
        self._norms = Norms(engine)

    def _configure(self, module: LightningModule, configure: Callable[[], Any]) -> Any:
        """Return the optimizers of a module; where they cannot be made without weights, one that holds all tensors."""
        try:
            return configure()
        except (ConfigurationError, MisconfigurationException):
            raise
        except Exception as error:  # whatever an optimizer raises about tensors without values
            if not any(parameter.is_meta for parameter in module.parameters()):
                raise
            self._notes.append(
                f"optimizers cannot be made without weights, and are taken to hold all: {reason_of(error)}"
            )
            return SGD(module.parameters(), lr=0.0)

    def _window_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        optimizer: Optimizer,
        optimizer_closure: Callable[[], Any],
    ) -> None:
        """Compute the last gradients of a window, in place of a step."""
        optimizer_closure()
        if all(parameter.grad is None for parameter in module.parameters()):
            return  # `training_step` returned None for every micro-batch
        # applies the transform where `training_step` returned None for the last one
        owner_of_adapter(trainer, module)._loop_adapter.before_optimizer_step(trainer, module, optimizer)
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
        return {**self.description.as_dict(), "notes": self._notes, **norms}

    @override
    def __str__(self) -> str:
        notes = "".join(f"\nnote: {line}" for line in self._notes)
        norms = "" if self._norms is None else f"\n\n{self._norms.table()}"
        return str(self.description) + (f"\n{notes}" if notes else "") + norms


def _steps_per_epoch(trainer: Trainer) -> int | None:
    """Return the optimizer steps of an epoch, `None` if that is not known or epochs differ."""
    factors = {trainer.accumulate_grad_batches}
    if (scheduler := find_callback(trainer, GradientAccumulationScheduler)) is not None:  # which has set none yet
        most = trainer.max_epochs or -1
        epochs = range(most) if most > 0 else [0, *scheduler.epochs]
        factors = {scheduler.get_accumulate_grad_batches(epoch) for epoch in epochs}
    batches = trainer.num_training_batches
    return ceil(batches / factors.pop()) if isfinite(batches) and len(factors) == 1 else None


def _raise_about_epochs(trainer: Trainer, error: ConfigurationError) -> NoReturn:
    """Raise an error again, in the words of the command if it asks for the steps of an epoch."""
    if "`steps_per_epoch`" not in str(error):
        raise error
    scheduler = find_callback(trainer, GradientAccumulationScheduler)
    cause = "data of unknown length" if scheduler is None else f"`{type(scheduler).__name__}`, with which epochs differ"
    raise ConfigurationError(
        f"A strategy that follows epochs should have epochs of one known number of steps to be explained: "
        f"`--total_steps=1000` makes them of `--trainer.max_epochs`. Found {cause}."
    ) from error


def replace_steps(module: LightningModule, act: Callable[[Optimizer, Callable[[], Any]], None]) -> None:
    """Have a function called with the optimizer and its closure in place of `LightningModule.optimizer_step`."""

    def step(_epoch: int, _batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        act(optimizer, optimizer_closure)

    module.optimizer_step = step  # type: ignore[assignment, method-assign]  # the hook is called by position


def owner_of_adapter(trainer: Trainer, module: LightningModule) -> AdapterOwner:
    """Return the owner of the strategy of a fit; raise a `ConfigurationError` if there is none."""
    if isinstance(module, AdapterOwner):
        return module
    if (callback := find_callback(trainer, GradientTransformCallback)) is not None:
        return callback
    raise ConfigurationError(
        f"The command should be given a `SparseGradModule` or a `GradientTransformCallback`. "
        f"Found neither with `{type(module).__name__}`."
    )


def load_weights(module: LightningModule, path: str) -> int | None:
    """Give a module the weights of a checkpoint, and return the step that they are of, if it is known.

    Raises:
        ConfigurationError: If it cannot be read, or is of another model.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])
    except Exception as error:  # torch has no one class for what is wrong with a file
        raise ConfigurationError(about_checkpoint(path, error)) from error
    step = checkpoint.get("global_step")
    return step if isinstance(step, int) else None
