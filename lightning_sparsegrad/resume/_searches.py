"""Searches of Lightning's tuner, which use the strategy and leave the fit unchanged."""

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
    """A callback that makes a `LearningRateFinder` or `BatchSizeFinder`, as `Tuner` uses, search with the strategy.

    Such a search trains for a while, without the callbacks of the Trainer and before the hooks of a module announce a
    fit. Here it uses a separate engine, which begins in the state of the fit: with its strategy, its seed and, for
    schedules, its length. A policy `nonfinite="raise"` is ignored, since a search for the learning rate continues until
    the loss diverges.

    After the search the fit is the same as without one: Lightning restores weights and optimizers, and the rest is
    restored here (see `untouched`). If there are learning rate schedules, the optimizer is created again with the new
    learning rate, since schedules start from it and may depend on the length of the fit.

    A fit that resumes from a checkpoint does not search for a learning rate: it continues with the checkpoint's.
    """

    def __init__(self) -> None:
        self.begun = False  # whether the fit is training already: a finder may search again in later epochs

    @classmethod
    def of(cls, trainer: Trainer) -> "Searches":
        """Return the Trainer's callback, adding it if there is none; its finders search through it from now on."""
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
        self.of(trainer)  # a module may have added finders

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
        rank_zero_info(f"The fit resumes with the learning rate of `{trainer.ckpt_path}`, and does not search for one.")
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
                    f"`{type(pl_module).__name__}.configure_optimizers` should create the optimizer with the learning "
                    f"rate of the search. Found {made_with[0]:g} again: the search has no effect."
                )
        if fits and not begun:
            Hyperparameters.of(trainer).searched(trainer)


def _run(trainer: Trainer, owners: list[Any], begins: list[Callable[[], None]], run: Callable[[], None]) -> None:
    """Train for a search, during which the Trainer has none of its own callbacks."""
    callbacks = callbacks_of(trainer)
    callbacks.extend(owner for owner in owners if isinstance(owner, Callback) and owner not in callbacks)
    for begin in begins:
        begin()
    run()


def _learning_rates(trainer: Trainer, *, key: str = "lr") -> list[float]:
    """Return the learning rates of all parameter groups: the current ones, or the initial ones of schedules."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [float(group.get(key, group["lr"])) for group in groups]
