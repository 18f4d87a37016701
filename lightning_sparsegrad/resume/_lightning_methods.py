"""Methods of Lightning that are replaced on an instance, and what it launches and is told by signals.

No hook does what these do, and no public name. Each is checked against the installed version in
`tests/private_names.py`; where one is gone, what needs it raises a line that names the version.
"""

import threading
from collections.abc import Callable
from functools import partial
from subprocess import Popen
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint

from lightning_sparsegrad.errors import needs_private_names
from lightning_sparsegrad.resume._lightning import replace_private

_VALIDATION_DUE = "_should_check_val_fx"
_COLLECTIVES = ("barrier", "broadcast", "reduce", "reduce_boolean_decision", "all_gather")

_resume = needs_private_names("lightning", "a resume")


# ------------------------------------------------------------ checkpoints, fits and searches
def intercept_checkpoints(trainer: Trainer, save: Callable[..., None], remove: Callable[..., None]) -> None:
    """Have a Trainer call `save` and `remove` with its own methods before their arguments; a second time does nothing.

    No hook is between a request for a checkpoint and the collection of the state; a `CheckpointIO` sees the write
    alone. No upstream issue.
    """
    if "save_checkpoint" not in vars(trainer):
        trainer.save_checkpoint = partial(save, trainer.save_checkpoint)  # type: ignore[method-assign]
        trainer.strategy.remove_checkpoint = partial(remove, trainer.strategy.remove_checkpoint)  # type: ignore[method-assign]


@_resume
def intercept_links(callback: ModelCheckpoint, follow: Callable[..., None]) -> None:
    """Have a ModelCheckpoint that links its last file call `follow` with its own method before the arguments.

    Without it the link is to a file that is not written yet. No upstream issue.
    """
    if callback.save_last == "link":  # of the class, as another Trainer may have had it before
        callback._link_checkpoint = partial(follow, type(callback)._link_checkpoint)  # type: ignore[method-assign]


def intercept_fit(trainer: Trainer, run: Callable[[Callable[[], None]], None]) -> None:
    """Have a Trainer train by `run`, which is called with its own method. No hook runs before the limits are asked."""
    trainer.fit_loop.run = partial(run, trainer.fit_loop.run)  # type: ignore[method-assign]


def release_fit(trainer: Trainer) -> None:
    """Take back what `intercept_fit` did."""
    vars(trainer.fit_loop).pop("run", None)


def intercept_search(callback: LearningRateFinder | BatchSizeFinder, search: Callable[..., None]) -> None:
    """Have a finder of the tuner call `search` with its own method before the arguments; a second time does nothing."""
    method = "lr_find" if isinstance(callback, LearningRateFinder) else "scale_batch_size"
    if method not in vars(callback):
        setattr(callback, method, partial(search, getattr(callback, method)))


@_resume
def validation_due(trainer: Trainer) -> Callable[[Any], bool]:
    """Return what Lightning asks whether a validation is due: the method, or what has taken its place.

    No hook runs before the data and the random draws of a validation begin. No upstream issue.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return loop._should_check_val_fx  # type: ignore[no-any-return]


@_resume
def set_validation_due(trainer: Trainer, due: Callable[[Any], bool] | None) -> None:
    """Have Lightning ask another function; its own method with `None`."""
    replace_private(trainer.fit_loop.epoch_loop, _VALIDATION_DUE, due)
    if due is None:
        delattr(trainer.fit_loop.epoch_loop, _VALIDATION_DUE)


def leave_collectives(trainer: Trainer, own: Callable[..., Any]) -> None:
    """Have a Trainer's strategy return what this process has, in place of what all have. No upstream issue."""
    for name in _COLLECTIVES:
        setattr(trainer.strategy, name, own)


def rejoin_collectives(trainer: Trainer) -> None:
    """Take back what `leave_collectives` did."""
    for name in _COLLECTIVES:
        vars(trainer.strategy).pop(name, None)


def has_left_collectives(trainer: Trainer) -> bool:
    """Return whether `leave_collectives` holds."""
    return _COLLECTIVES[0] in vars(trainer.strategy)


# ------------------------------------------------------------ signals and launched processes
@_resume
def intercept_signals(trainer: Trainer, take: Callable[..., None], before_batch: Callable[[], None]) -> None:
    """Have SIGTERM come to `take`, and all processes agree in `before_batch`.

    Lightning's own waits within the handler for the other processes, which may be anywhere: Lightning#20806 (open). Its
    broadcast before each batch, Lightning#20825, is of process 0 alone.
    """
    replace_private(trainer._signal_connector, "_sigterm_notifier_fn", take)
    replace_private(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", before_batch)


@_resume
def end_by_sigterm(trainer: Trainer) -> None:
    """Have a run end where Lightning ends one after SIGTERM."""
    trainer._signal_connector.received_sigterm = True


@_resume
def launched_by(trainer: Trainer) -> list[Popen[bytes]] | None:
    """Return the processes that a Trainer has launched as scripts of their own; `None` if it launches none so."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else None


@_resume
def take_launched() -> list[Popen[bytes]]:
    """Return the processes that Lightning has launched from this one, which it does not watch from now on.

    It would kill this process when it finds that one of them has ended by a signal. No upstream issue.
    """
    from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

    # the threads that Lightning starts to watch them, one for each launch
    observers = [thread for thread in threading.enumerate() if isinstance(thread, _ChildProcessObserver)]
    processes = [process for observer in observers for process in observer._child_processes]
    for observer in observers:
        observer._child_processes = []
    return processes
