"""Checkpoints requested inside an accumulation window, which wait for its end or are marked as inexact."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_sparsegrad.loops._callbacks import find_callback, find_or_add_callback
from lightning_sparsegrad.loops._lightning import should_accumulate
from lightning_sparsegrad.loops._twins import is_a
from lightning_sparsegrad.resume._alone import is_alone, leave_others, rejoin_others, why_not_alone
from lightning_sparsegrad.resume._lightning import logged_steps
from lightning_sparsegrad.resume._lightning_methods import intercept_checkpoints, intercept_links
from lightning_sparsegrad.resume._progress import is_at_last_batch, is_within_epoch, settle

INEXACT_KEY = "lightning_sparsegrad_inexact"  # in checkpoints, with the step at which training stopped
_NONE = (-1, -1)  # no window


class WaitingCheckpoints(Callback):
    """A callback that delays checkpoints requested inside a window until the window has ended.

    Inside a window the gradients of earlier micro-batches belong to the state of the training, and no checkpoint holds
    them. A checkpoint that is requested there with `Trainer.save_checkpoint`, by a ModelCheckpoint or other code, is
    therefore written after the optimizer step; the removal of an older checkpoint and a link to the new one wait as
    well. Checkpoints of weights alone (`weights_only=True`) cannot be resumed, and do not wait.

    If there is no such moment any more, after an exception or the end of training inside a window, it is written
    nevertheless, and a warning says that it is not exact: it holds `lightning_sparsegrad_inexact`, and a run resumes
    from it after the last finished optimizer step. After an exception in one of several processes, the first process
    writes its own state without the others, for which it might wait forever.

    Attributes:
        holds_gradient: Returns whether a gradient waits for an optimizer step that only its owner knows about, as under
            manual optimization.
        suspended: Whether everything is written at once, as during a search of Lightning's tuner.
    """

    def __init__(self) -> None:
        self.holds_gradient: Callable[[], bool] | None = None
        self.suspended = False
        self._requests: dict[str, Callable[[], None]] = {}
        self._followers: list[Callable[[], None]] = []
        self._over = False  # whether no window will end any more
        self._inexact = False  # whether the checkpoint being written is inexact
        self._warned = False  # that this fit resumes from an inexact checkpoint
        self._window = _NONE  # step and epoch of the current window
        self._before = (0, 0)  # micro-batches of the epoch before it, and the step of the loggers
        self._written: list[str] = []  # paths written by this fit, in order
        self._stopped = False  # by a signal
        self.is_written = False  # whether the current state is written

    @classmethod
    def of(cls, trainer: Trainer) -> "WaitingCheckpoints":
        """Return the Trainer's callback, adding it if there is none."""
        if (waiting := find_callback(trainer, WaitingCheckpoints)) is None:
            waiting = find_or_add_callback(trainer, cls)
            waiting.intercept(trainer)
        return waiting

    def intercept(self, trainer: Trainer) -> None:
        """Route a Trainer's requests here; a second call changes nothing."""
        self._begin()
        rejoin_others(trainer)
        intercept_checkpoints(trainer, partial(self._save, trainer), self._follow)
        for callback in trainer.checkpoint_callbacks:
            if is_a(callback, ModelCheckpoint):
                intercept_links(callback, self._follow)

    def inside_window(self, trainer: Trainer) -> bool:
        """Return whether a batch is being processed, or gradients wait for the optimizer step of their window."""
        loop = trainer.fit_loop.epoch_loop
        progress = loop.batch_progress.current
        if progress.ready != progress.processed:  # type: ignore[attr-defined]  # of the batches' tracker
            return True
        if trainer.lightning_module.automatic_optimization:
            return should_accumulate(trainer)
        return self.holds_gradient is not None and self.holds_gradient()

    @property
    def has_trained(self) -> bool:
        """Whether the fit has begun a batch."""
        return self._window != _NONE

    @property
    def last_written(self) -> str | None:
        """The newest checkpoint to resume from that the fit has written and that still exists."""
        there = (path for path in reversed(self._written) if "://" in path or Path(path).exists())
        return next(there, None)

    def must_wait(self, trainer: Trainer) -> bool:
        """Return whether the state cannot be collected at this moment."""
        return self.inside_window(trainer)

    def write(self) -> None:
        """Write the waiting checkpoints, then do the removals and links that wait for them."""
        requests, self._requests = self._requests, {}
        followers, self._followers = self._followers, []
        for action in (*requests.values(), *followers):
            action()

    def finished_batches(self, trainer: Trainer) -> int:
        """Return the micro-batches of the epoch up to the last finished optimizer step."""
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if not self._has_stepped(trainer):
            return self._before[0]
        return int(progress.ready if trainer.lightning_module.automatic_optimization else progress.processed)

    def mark(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """Mark a checkpoint as inexact, and make it resume after the last finished optimizer step."""
        checkpoint[INEXACT_KEY] = {"step": trainer.global_step}
        if is_within_epoch(trainer):
            settle(
                checkpoint["loops"]["fit_loop"],
                batches=self.finished_batches(trainer),
                logged=self._before[1] + self._has_stepped(trainer),
                ends_epoch=self._ends_epoch(trainer),
            )

    def warn_if_inexact(self, checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
        """Warn once if the checkpoint that a fit resumes from is not exact."""
        mark = checkpoint.get(INEXACT_KEY)
        if mark and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"`{trainer.ckpt_path}` is not exact: training stopped at step {mark['step']} inside a window, or "
                f"before a step was complete. The fit resumes after the last finished optimizer step."
            )

    def resumes_within_epoch(self, trainer: Trainer) -> bool:
        """Return whether the checkpoint being written resumes within an epoch."""
        return is_within_epoch(trainer) and not (self._inexact and self._ends_epoch(trainer))

    def _ends_epoch(self, trainer: Trainer) -> bool:
        return self._has_stepped(trainer) and is_at_last_batch(trainer)

    def _has_stepped(self, trainer: Trainer) -> bool:
        return trainer.global_step > self._window[0]

    # ------------------------------------------------------------ requests to a Trainer
    def _save(
        self,
        trainer: Trainer,
        save: Callable[..., None],
        filepath: Any,
        weights_only: bool | None = None,
        storage_options: Any = None,
    ) -> None:
        if self._is_interrupted_before_training(trainer) and (self._stopped or Path(filepath).exists()):
            if not self._stopped:
                rank_zero_warn(f"Checkpoint `{filepath}` is kept: the fit that would replace it has not trained.")
            return
        request = partial(self._request, save, filepath, weights_only, storage_options)
        if weights_only or self.suspended or not self.must_wait(trainer):
            request()
        elif self._over:
            self._write_inexact(trainer, filepath, request)
        else:
            self._requests[str(filepath)] = partial(self._write_waiting, trainer, filepath, request)

    def _request(
        self, save: Callable[..., None], filepath: Any, weights_only: bool | None, storage_options: Any
    ) -> None:
        save(filepath, weights_only, storage_options)
        if not weights_only and not self.suspended:
            self.is_written = True
            self._written.append(str(filepath))

    def _is_interrupted_before_training(self, trainer: Trainer) -> bool:
        interrupted = trainer.state.status == TrainerStatus.INTERRUPTED and trainer.state.fn == TrainerFn.FITTING
        return interrupted and not self.has_trained

    def _write_waiting(self, trainer: Trainer, path: Any, request: Callable[[], None]) -> None:
        if self._over and self.must_wait(trainer):
            self._write_inexact(trainer, path, request)
        else:
            request()

    def _write_inexact(self, trainer: Trainer, path: Any, request: Callable[[], None]) -> None:
        if why := why_not_alone(trainer):
            rank_zero_warn(
                f"Checkpoint `{path}` was not written: training stopped at step {trainer.global_step}, {why}"
            )
            return
        if is_alone(trainer) and not trainer.is_global_zero:
            return
        self._inexact = True
        try:
            request()
        finally:
            self._inexact = False
        rank_zero_warn(
            f"Checkpoint `{path}` is not exact: training stopped at step {trainer.global_step} inside a window, or "
            f"before a step was complete. A run resumes from it after the last finished optimizer step."
        )

    def _follow(self, act: Callable[..., None], *args: Any) -> None:
        if self._requests:  # the new checkpoint, or the target of the link, does not exist yet
            self._followers.append(partial(act, *args))
        else:
            act(*args)

    # ------------------------------------------------------------ hooks
    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._inexact:
            self.mark(trainer, checkpoint)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.is_written = False
        window = (trainer.global_step, trainer.current_epoch)
        if window != self._window:
            loop = trainer.fit_loop.epoch_loop
            self._window, self._before = window, (loop.batch_progress.current.ready - 1, logged_steps(trainer))

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not self.must_wait(trainer):
            self.write()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not isinstance(
            exception, SIGTERMException
        ):  # which reaches all processes
            leave_others(trainer)
        self._stopped = isinstance(exception, SIGTERMException)
        if trainer.training or trainer.validating:
            self._end()

    def _begin(self) -> None:
        self._requests, self._followers, self._over, self._warned, self._window = {}, [], False, False, _NONE
        self._written, self._stopped, self.is_written = [], False, False

    def _end(self) -> None:
        self._over = True
        self.write()
