"""Methods of Lightning that are replaced on an instance, and its launched processes and signals.

There are no hooks or public names for these. Each name is checked against the installed version in
`tests/private_names.py`; if one is missing, the function that needs it raises an error that names the version.
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
    """Make a Trainer call `save` and `remove`, with its own methods as first argument; a second call does nothing.

    There is no hook between a request for a checkpoint and the collection of the state; a `CheckpointIO` sees only the
    write. No upstream issue.
    """
    if "save_checkpoint" not in vars(trainer):
        trainer.save_checkpoint = partial(save, trainer.save_checkpoint)  # type: ignore[method-assign]
        trainer.strategy.remove_checkpoint = partial(remove, trainer.strategy.remove_checkpoint)  # type: ignore[method-assign]


@_resume
def intercept_links(callback: ModelCheckpoint, follow: Callable[..., None]) -> None:
    """Make a ModelCheckpoint that links its last file call `follow`, with its own method as first argument.

    Without it the link would point to a file that is not written yet. No upstream issue.
    """
    if callback.save_last == "link":  # the method of the class: another Trainer may have replaced it before
        callback._link_checkpoint = partial(follow, type(callback)._link_checkpoint)  # type: ignore[method-assign]


def intercept_fit(trainer: Trainer, run: Callable[[Callable[[], None]], None]) -> None:
    """Make a Trainer train by `run`, called with its own method: no hook runs before the limits are checked."""
    trainer.fit_loop.run = partial(run, trainer.fit_loop.run)  # type: ignore[method-assign]


def release_fit(trainer: Trainer) -> None:
    """Undo `intercept_fit`."""
    vars(trainer.fit_loop).pop("run", None)


def intercept_search(callback: LearningRateFinder | BatchSizeFinder, search: Callable[..., None]) -> None:
    """Make a finder of the tuner call `search`, with its own method first; a second call does nothing."""
    method = "lr_find" if isinstance(callback, LearningRateFinder) else "scale_batch_size"
    if method not in vars(callback):
        setattr(callback, method, partial(search, getattr(callback, method)))


@_resume
def validation_due(trainer: Trainer) -> Callable[[Any], bool]:
    """Return the function with which Lightning checks whether a validation is due: its method or a replacement.

    No hook runs before a validation sets up its data and makes its random draws. No upstream issue.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return loop._should_check_val_fx  # type: ignore[no-any-return]


@_resume
def set_validation_due(trainer: Trainer, due: Callable[[Any], bool] | None) -> None:
    """Make Lightning check with another function; with `None`, with its own method."""
    replace_private(trainer.fit_loop.epoch_loop, _VALIDATION_DUE, due)
    if due is None:
        delattr(trainer.fit_loop.epoch_loop, _VALIDATION_DUE)


def leave_collectives(trainer: Trainer, own: Callable[..., Any]) -> None:
    """Make the collectives of a Trainer's strategy return the value of this process. No upstream issue."""
    for name in _COLLECTIVES:
        setattr(trainer.strategy, name, own)


def rejoin_collectives(trainer: Trainer) -> None:
    """Undo `leave_collectives`."""
    for name in _COLLECTIVES:
        vars(trainer.strategy).pop(name, None)


def has_left_collectives(trainer: Trainer) -> bool:
    """Return whether `leave_collectives` is in effect."""
    return _COLLECTIVES[0] in vars(trainer.strategy)


# ------------------------------------------------------------ signals and launched processes
@_resume
def intercept_signals(trainer: Trainer, take: Callable[..., None], before_batch: Callable[[], None]) -> None:
    """Route SIGTERM to `take`, and let all processes agree in `before_batch`.

    Lightning's own handler waits inside the handler for the other processes, which may be anywhere: Lightning#20806
    (open). Its broadcast before each batch, Lightning#20825, comes from process 0 alone.
    """
    replace_private(trainer._signal_connector, "_sigterm_notifier_fn", take)
    replace_private(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", before_batch)


@_resume
def end_by_sigterm(trainer: Trainer) -> None:
    """End a run where Lightning ends one after SIGTERM."""
    trainer._signal_connector.received_sigterm = True


@_resume
def launched_by(trainer: Trainer) -> list[Popen[bytes]] | None:
    """Return the processes that a Trainer has launched as separate scripts; `None` if it does not launch scripts."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else None


@_resume
def take_launched() -> list[Popen[bytes]]:
    """Return the processes that Lightning has launched from this one, and stop Lightning from watching them.

    It would kill this process once one of them ends by a signal. No upstream issue.
    """
    from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

    # Lightning's watcher threads, one per launch
    observers = [thread for thread in threading.enumerate() if isinstance(thread, _ChildProcessObserver)]
    processes = [process for observer in observers for process in observer._child_processes]
    for observer in observers:
        observer._child_processes = []
    return processes
