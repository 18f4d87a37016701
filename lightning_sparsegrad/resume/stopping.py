"""The end of a run after SIGTERM or Ctrl+C: where nothing is lost, with a checkpoint, and a line that says so."""

import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sparsegrad.resume.waiting import WaitingCheckpoints
from lightning_sparsegrad.signals import SIGNALS, STATUSES

_AGAIN = "stopping after the optimizer step at hand; press Ctrl+C again to stop at once"


class Stopping(Callback):
    """Has the run of a Trainer end after SIGTERM, and a fit with `ExactResume` after Ctrl+C, where nothing is lost.

    A signal is remembered. A fit with `ExactResume` ends between two optimizer steps, or within a validation; another
    one where Lightning ends it; what evaluates or predicts before its next batch. What ends it is Lightning's
    `SIGTERMException`, with a status: 143 after SIGTERM, 130 after Ctrl+C.
    """

    def __init__(self) -> None:
        self.is_exact = False  # whether there is an `ExactResume`, which says when a fit ends
        self.signum: signal.Signals | None = None  # that has come
        self.raised = False
        self._runs = False
        self._owner = os.getpid()

    @classmethod
    def of(cls, trainer: Trainer) -> "Stopping":
        """Return the one that a Trainer has; it gets one if it has none."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by its connector
        for callback in callbacks:
            if isinstance(callback, cls):
                return callback
        callbacks.append(stopping := cls())  # the last, so that others have written their checkpoints before
        return stopping

    @property
    def status(self) -> int:
        return STATUSES[self.signum or signal.SIGTERM]

    def stop(self) -> None:
        """End the run now."""
        self.raised = True
        raise SIGTERMException(self.status)

    def stop_if_told(self, trainer: Trainer) -> None:  # noqa: ARG002
        """End the run now if a signal has come."""
        if self.signum:
            self.stop()

    # ------------------------------------------------------------ signals
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        self.intercept(trainer)

    def intercept(self, trainer: Trainer) -> None:
        """Have a Trainer's signals come here; a second time changes nothing."""
        self.signum, self.raised, self._owner = None, False, os.getpid()
        # Lightning's own waits for the other processes within the handler, in which they may be anywhere
        trainer._signal_connector._sigterm_notifier_fn = self._take  # type: ignore[method-assign]
        self._trainer = trainer

    def _take(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # as handlers are called
        if os.getpid() != self._owner:  # a process that was forked, as to load data
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        if signum == signal.SIGINT:
            if self.signum == signum:
                raise KeyboardInterrupt
            if self._trainer.is_global_zero:
                sys.stderr.write(f"\n{_AGAIN}\n")
        self.signum = self.signum or signal.Signals(signum)
        SIGNALS.is_taken = self._runs and signum == signal.SIGTERM  # else it is ended at once
        if not self.is_exact:
            self._trainer._signal_connector.received_sigterm = True  # it ends where Lightning ends it

    def _begin(self, trainer: Trainer) -> None:
        """Take signals, from the first batch on."""
        self._runs = True
        if threading.current_thread() is not threading.main_thread() or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.is_exact and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._take)

    def _end(self) -> None:
        self._runs = False
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == self._take:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    # ------------------------------------------------------------ where a run ends
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._begin(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._begin(trainer)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.signum and (trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking):
            self.stop()

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:  # noqa: ARG002
        if self.signum:
            self.stop()

    on_predict_batch_start = on_test_batch_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        if self.raised and self.is_exact and isinstance(exception, SIGTERMException):
            self._save(trainer)
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        self._end()
        if self.signum and not self.raised:  # after the last batch: all is done
            self.stop()

    # ------------------------------------------------------------ what is left
    def _save(self, trainer: Trainer) -> None:
        """Write a checkpoint beside those of the fit, if no callback has written where it ends."""
        waiting, saving = WaitingCheckpoints.of(trainer), trainer.checkpoint_callback
        if not isinstance(saving, ModelCheckpoint) or saving.save_weights_only or trainer.fast_dev_run:
            return
        if not waiting.has_trained or waiting.is_written:
            return
        stem, number = f"stopped-step={trainer.global_step}", 0
        path = Path(str(saving.dirpath), f"{stem}.ckpt")
        while trainer.strategy.broadcast(path.exists()):
            number += 1
            path = path.with_name(f"{stem}-v{number}.ckpt")
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            rank_zero_warn(f"Checkpoint `{path}` is not written: {error}")


def about_end(trainer: Trainer | None, checkpoint: Any) -> str:
    """Return what to say of a fit that a signal has ended.

    Args:
        trainer: Its Trainer, `None` if there was none yet.
        checkpoint: The one that the fit was to resume from.
    """
    callbacks: list[Callback] = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
    waiting = next((callback for callback in callbacks if isinstance(callback, WaitingCheckpoints)), None)
    has_trained, written = (waiting.has_trained, waiting.last_written) if waiting else (False, None)
    where = f"at step {trainer.global_step}" if trainer and has_trained else "before the first step"
    path = written or (trainer and trainer.ckpt_path) or checkpoint
    if not path:
        return f"stopped {where}; no checkpoint was written"
    return f"stopped {where}; resume with sparsegrad fit --ckpt_path {shlex.quote(str(path))}"
