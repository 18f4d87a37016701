"""A validation that a signal interrupts: the checkpoint dates from before it, and a resumed fit begins with it."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.resume._lightning_methods import (
    intercept_fit,
    release_fit,
    set_validation_due,
    validation_due,
)
from lightning_sparsegrad.resume._progress import pause


class Pause:
    """The state of a fit before a validation, for a checkpoint that is written within it.

    Args:
        trainer: The Trainer, before the validation.
        state: The state of `ExactResume` at that moment.
    """

    def __init__(self, trainer: Trainer, state: dict[str, Any]) -> None:
        self.state = {**state, "validates": True}
        self._callbacks = {callback.state_key: callback.state_dict() for callback in _counting(trainer)}
        self._norms = _norms(trainer.lightning_module)

    def has_same_weights(self, trainer: Trainer) -> bool:
        """Return whether the weights are still the same, not averages that are swapped in for the validation."""
        return all(map(torch.equal, self._norms, _norms(trainer.lightning_module)))

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        """Change a checkpoint that is collected within the validation into one from before it."""
        checkpoint["callbacks"].update({key: state for key, state in self._callbacks.items() if state})
        progress = checkpoint["loops"]["fit_loop"]
        progress["epoch_loop.val_loop.batch_progress"] = deepcopy(self.state["counters"]["validation"])
        pause(progress)


def watch_validations(trainer: Trainer, begins: Callable[[], None]) -> None:
    """Call `begins` before each validation of a fit; no hook precedes its data setup and random draws."""
    set_validation_due(trainer, None)
    set_validation_due(trainer, partial(_due, validation_due(trainer), begins))


def _due(ask: Callable[[Any], bool], begins: Callable[[], None], fetcher: Any) -> bool:
    if due := ask(fetcher):
        begins()
    return due


def allow_to_begin(trainer: Trainer) -> None:
    """Make Lightning begin a fit that has done all of its steps, for the validation that follows the last one."""
    loop: Any = trainer.fit_loop.epoch_loop
    steps = loop.max_steps

    def run_from_it(run: Callable[[], None]) -> None:
        if 0 <= steps <= trainer.global_step:
            loop.max_steps = trainer.global_step + 1
        try:
            run()
        finally:
            loop.max_steps = steps

    intercept_fit(trainer, run_from_it)


def validate_first(trainer: Trainer, restore: Callable[[], None], *, steps: int) -> None:
    """Make a resumed fit begin with the interrupted validation, whether or not the settings make it due.

    Args:
        trainer: The Trainer, at the start of its training.
        restore: Restores the states; called when the validation begins.
        steps: The `max_steps` of the fit.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    due = validation_due(trainer)
    release_fit(trainer)

    def is_due(fetcher: Any) -> bool:  # noqa: ARG001  # Lightning passes it
        """Lightning calls it twice: before the batch, which is skipped here, and before the validation."""
        loop.max_steps = steps
        if not loop.val_loop.restarting:
            set_validation_due(trainer, due)
            restore()
        loop.val_loop.restarting = False  # it is run whole
        return True

    set_validation_due(trainer, is_due)


def _counting(trainer: Trainer) -> list[Any]:
    # the state of a ModelCheckpoint depends on the file that is written
    callbacks = callbacks_of(trainer)
    return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]


def _norms(module: LightningModule) -> list[Tensor]:
    tensors = [*module.parameters(), *module.buffers()]
    local = [getattr(tensor, "to_local", lambda tensor=tensor: tensor)().detach() for tensor in tensors]
    return [torch.linalg.vector_norm(tensor) for tensor in local if tensor.is_floating_point()]
