"""The progress of Lightning's loops, corrected for a resumed fit and for a checkpoint."""

from typing import Any

from lightning.pytorch import Trainer

from lightning_sparsegrad.resume._lightning import end_restart, shift_logged_steps


def is_within_epoch(trainer: Trainer) -> bool:
    """Return whether an epoch has begun and is not finished, or was interrupted."""
    epoch: Any = trainer.fit_loop.epoch_progress.current
    return bool(epoch.processed < epoch.started or is_cut_short(trainer))


def is_cut_short(trainer: Trainer) -> bool:
    """Return whether an epoch has begun and has not reached its last batch."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0 and not is_at_last_batch(trainer)


def is_at_last_batch(trainer: Trainer) -> bool:
    """Return whether the last batch of an epoch has been loaded."""
    ready: int = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return trainer.is_last_batch or ready == trainer.num_training_batches


def begin_epoch(trainer: Trainer) -> None:
    """Make a resumed fit begin an epoch: with `max_steps`, Lightning would end the previous one a second time."""
    loop: Any = trainer.fit_loop
    for tracker in (loop.epoch_progress.total, loop.epoch_progress.current):
        tracker.completed = tracker.processed
    end_restart(trainer)


def rewind(progress: dict[str, Any], *, within_epoch: bool) -> None:
    """Change the saved progress to that of one of Lightning's own checkpoint hooks, from which it can resume.

    Within an epoch this is `on_train_batch_end`, where the batch is not yet counted as completed; between epochs it is
    `on_train_epoch_end`, where the epoch is not. The work that followed these hooks is done, and is not repeated.
    """
    for tracker in ("total", "current"):
        epoch = progress["epoch_progress"][tracker]
        if within_epoch:
            epoch["processed"] = epoch["completed"] = epoch["started"] - 1
            progress["epoch_loop.batch_progress"][tracker]["completed"] -= 1
        else:
            epoch["ready"] = epoch["started"] = epoch["processed"]
            epoch["completed"] = max(0, epoch["processed"] - 1)
    if within_epoch:
        shift_logged_steps(progress, -1)


def pause(progress: dict[str, Any]) -> None:
    """Change the progress saved within a validation so that a resume runs it: Lightning resumes one that had begun.

    Everything before it is counted as done, everything after it is not.
    """
    validation = progress["epoch_loop.val_loop.batch_progress"]
    validation["current"] = dict.fromkeys(validation["current"], 0)
    for name in ("ready", "started"):
        validation["total"][name] = validation["total"]["processed"] + 1
    validation["is_last_batch"] = False


def settle(progress: dict[str, Any], *, batches: int, logged: int, ends_epoch: bool) -> None:
    """Move the saved progress to just after the first `batches` batches of an epoch and the work that follows them.

    Args:
        progress: The saved progress of the fit loop; its later batches may be done or begun.
        batches: Number of batches of the epoch.
        logged: Steps of the loggers until then.
        ends_epoch: Whether these are all batches of the epoch.
    """
    saved = progress["epoch_loop.batch_progress"]
    undone = saved["current"]["ready"] - batches
    for tracker in ("total", "current"):
        saved[tracker] = dict.fromkeys(saved[tracker], saved[tracker]["ready"] - undone)
        if ends_epoch:
            progress["epoch_progress"][tracker]["processed"] = progress["epoch_progress"][tracker]["started"]
    saved["is_last_batch"] = ends_epoch
    shift_logged_steps(progress, to=logged)
    rewind(progress, within_epoch=not ends_epoch)
