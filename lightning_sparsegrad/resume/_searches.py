"""Searches of Lightning's tuner run with the strategy, and leave the fit as it was."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_sparsegrad.loops._callbacks import callbacks_of, find_or_add_callback
from lightning_sparsegrad.loops._lightning_adapter import AdapterOwner
from lightning_sparsegrad.resume._hyperparameters import Hyperparameters
from lightning_sparsegrad.resume._lightning_methods import intercept_fit, intercept_search, release_fit
from lightning_sparsegrad.resume._untouched import same_draws, untouched


class Searches(Callback):
    """Has a `LearningRateFinder` and a `BatchSizeFinder`, which `Tuner` uses too, search with what the fit will do.

    Such a search trains for a while, without the callbacks of the Trainer, and before a module is told that a fit
    starts. Here it goes through an engine of its own, which begins where the fit stands: the strategy, its seed and the
    length of the fit for schedules are the fit's. A policy `nonfinite="raise"` is left out, as a search for the
    learning rate goes on until the loss diverges.

    After the search the fit is what it would be without: Lightning restores weights and optimizers, and what it does
    not restore is restored here (see `untouched`). Where there are schedules of the learning rate, the optimizer is
    made anew with what was found, as they start from its learning rate and may follow the length of the fit.

    A fit that resumes from a checkpoint does not search for a learning rate, as it goes on with the checkpoint's.
    """

    def __init__(self) -> None:
        self.begun = False  # whether the fit trains already, as for a finder that searches again in later epochs

    @classmethod
    def of(cls, trainer: Trainer) -> "Searches":
        """Return the one that a Trainer has; it gets one if it has none. Its finders search through it from now on."""
        searches = find_or_add_callback(trainer, cls)
        for callback in callbacks_of(trainer):
            if isinstance(callback, LearningRateFinder):
                intercept_search(callback, partial(_search, same_batches=True))
            if isinstance(callback, BatchSizeFinder):
                intercept_search(callback, partial(_search, same_batches=False))
        return searches

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.begun = False
        Hyperparameters.of(trainer).setup()
        self.of(trainer)  # a module may have brought finders

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = True


def _search(
    search: Callable[[Trainer, LightningModule], None],
    trainer: Trainer,
    pl_module: LightningModule,
    *,
    same_batches: bool,
) -> None:
    fits, begun = trainer.state.fn == TrainerFn.FITTING, Searches.of(trainer).begun
    if same_batches and trainer.ckpt_path and not begun:
        rank_zero_info(f"`{trainer.ckpt_path}` has a learning rate, with which the fit goes on: none is searched for.")
        return
    candidates: list[Any] = [pl_module, *callbacks_of(trainer)]
    owners = [each for each in candidates if isinstance(each, AdapterOwner)] if fits else []
    with same_draws(trainer):
        before, made_with = _learning_rates(trainer), _learning_rates(trainer, key="initial_lr")
        if fits and not begun:
            Hyperparameters.of(trainer).searched(trainer)
        with untouched(trainer, same_batches=same_batches), ExitStack() as engines:
            begins = [
                engines.enter_context(owner._loop_adapter.searching(trainer, pl_module, begun=begun))
                for owner in owners
            ]
            intercept_fit(trainer, partial(_run, trainer, owners, begins))
            try:
                search(trainer, pl_module)
            finally:
                release_fit(trainer)
        is_new = before != _learning_rates(trainer)
        if fits and not begun and trainer.lr_scheduler_configs:
            trainer.strategy.setup_optimizers(trainer)
            if is_new and made_with == _learning_rates(trainer, key="initial_lr"):
                rank_zero_warn(
                    f"`{type(pl_module).__name__}.configure_optimizers` should make the optimizer with the learning "
                    f"rate that was found. Found {made_with[0]:g} again: the search has no effect."
                )
        if fits and not begun:
            Hyperparameters.of(trainer).searched(trainer)


def _run(trainer: Trainer, owners: list[Any], begins: list[Callable[[], None]], run: Callable[[], None]) -> None:
    """Train for a search; its Trainer has none of its own callbacks."""
    callbacks = callbacks_of(trainer)
    callbacks.extend(owner for owner in owners if isinstance(owner, Callback) and owner not in callbacks)
    for begin in begins:
        begin()
    run()


def _learning_rates(trainer: Trainer, *, key: str = "lr") -> list[float]:
    """Return those of all parameter groups: what they are now, or with `initial_lr` what schedules start from."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [float(group.get(key, group["lr"])) for group in groups]
