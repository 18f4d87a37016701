"""The end of a run after SIGTERM or Ctrl+C: where nothing is lost, with a checkpoint and a final line."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_sparsegrad.loops._callbacks import find_callback, find_or_add_callback
from lightning_sparsegrad.resume._launched import end_with_launcher, is_launched
from lightning_sparsegrad.resume._lightning_methods import end_by_sigterm, intercept_signals, launched_by, take_launched
from lightning_sparsegrad.resume._signals import SIGNALS, STATUSES, signal_launcher
from lightning_sparsegrad.resume._waiting import WaitingCheckpoints

_SAME = 0.5  # seconds within which a launcher may forward a signal that has reached its whole group
_PATIENCE = 6.0  # seconds after which launched processes should have ended
_LITTLE = 1.0
_AGAIN = "stopping after the current optimizer step; press Ctrl+C again to stop at once"


class Stopping(Callback):
    """A callback that ends a run after SIGTERM, and a fit with `ExactResume` after Ctrl+C, where nothing is lost.

    It remembers the signal. A fit with `ExactResume` ends between two optimizer steps, or within a validation; another
    fit where Lightning ends it; an evaluation or prediction before its next batch. The run ends with Lightning's
    `SIGTERMException`, with status 143 after SIGTERM and 130 after Ctrl+C.
    """

    def __init__(self) -> None:
        self.is_exact = False  # whether an `ExactResume` decides when a fit ends
        self.signum: signal.Signals | None = None  # the signal received
        self.raised = False
        self._agreed = 0  # the signal that all processes know
        self._runs = False
        self._owner = os.getpid()
        self._interrupt: Any = signal.default_int_handler
        self._since = 0.0  # time of the signal

    @classmethod
    def of(cls, trainer: Trainer) -> "Stopping":
        """Return the Trainer's callback, adding it if there is none."""
        return find_or_add_callback(trainer, cls)  # last, so that others write their checkpoints first

    @property
    def status(self) -> int:
        return STATUSES[self.signum or signal.SIGTERM]

    def stop(self) -> None:
        """End the run now."""
        self.raised = True
        raise SIGTERMException(self.status)

    def agree(self, trainer: Trainer) -> None:
        """Share a signal that one process received with all; each has to call this at the same moment.

        It replaces Lightning's broadcast before each batch, which comes from process 0 alone, at the same cost.
        """
        if trainer.world_size > 1:
            signum = torch.tensor([self.signum or 0], device=trainer.strategy.root_device)
            torch.distributed.all_reduce(signum, op=torch.distributed.ReduceOp.MAX)
            self._agreed = int(signum)
            if self._agreed and not self.signum:
                self.signum = signal.Signals(self._agreed)

    def stop_if_requested(self, trainer: Trainer) -> None:
        """End the run now if a signal was received; with several processes, if all know it."""
        if self._agreed if trainer.world_size > 1 else self.signum:
            self.stop()

    def _before_batch(self, trainer: Trainer) -> None:
        self.agree(trainer)
        if not self.is_exact:
            self.stop_if_requested(trainer)

    # ------------------------------------------------------------ signals
    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.intercept(trainer)

    def intercept(self, trainer: Trainer) -> None:
        """Route a Trainer's signals here; a second call changes nothing."""
        self.signum, self.raised, self._agreed, self._owner = None, False, 0, os.getpid()
        intercept_signals(trainer, self._take, partial(self._before_batch, trainer))
        self._trainer = trainer
        end_with_launcher()

    def _take(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of handlers
        if os.getpid() != self._owner:  # a forked process, for example one that loads data
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        if signum == signal.SIGINT:
            if self.signum == signum and monotonic() - self._since > (_SAME if is_launched() else 0):
                raise KeyboardInterrupt
            if self._trainer.is_global_zero and not self.signum:
                sys.stderr.write(f"\n{_AGAIN}\n")
        if not self.signum:
            self.signum, self._since = signal.Signals(signum), monotonic()
            if signum == signal.SIGTERM:
                self._signal_others()
        SIGNALS.is_taken = self._runs and signum == signal.SIGTERM  # otherwise the process ends at once
        if not self.is_exact and self._trainer.world_size == 1:
            end_by_sigterm(self._trainer)

    def _signal_others(self) -> None:
        if (launcher := self._trainer.strategy.launcher) is not None:
            launcher.kill(signal.SIGTERM)
            take_launched()
        signal_launcher(signal.SIGTERM)

    def _begin(self, trainer: Trainer) -> None:
        """Take signals from the first batch on."""
        self._runs = SIGNALS.runs = True
        self.signum = self.signum or SIGNALS.came  # its exception may have been caught
        if threading.current_thread() is not threading.main_thread() or trainer.state.fn != TrainerFn.FITTING:
            return
        handler = signal.getsignal(signal.SIGINT)
        if self.is_exact and handler not in {None, signal.SIG_IGN} and SIGNALS.is_default(signal.SIGINT):
            self._interrupt = handler
            signal.signal(signal.SIGINT, self._take)

    def _end(self) -> None:
        self._runs = SIGNALS.runs = False
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == self._take:
            signal.signal(signal.SIGINT, self._interrupt)

    # ------------------------------------------------------------ where a run ends
    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    on_test_start = on_predict_start = on_validation_start

    @override
    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.signum and (trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking):
            self.stop()

    @override
    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.signum:
            self.stop()

    on_predict_batch_start = on_test_batch_start  # type: ignore[assignment]

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.raised and self.is_exact and isinstance(exception, SIGTERMException):
            self._save(trainer)
        self._end()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()
        if self.signum and not self.raised:  # after the last batch, when all work is done
            self.stop()

    # ------------------------------------------------------------ the checkpoint
    def _save(self, trainer: Trainer) -> None:
        """Write a checkpoint beside those of the fit, unless a callback has written one at the same point."""
        waiting, saving = WaitingCheckpoints.of(trainer), trainer.checkpoint_callback
        if not isinstance(saving, ModelCheckpoint) or saving.save_weights_only or trainer.fast_dev_run:  # type: ignore[attr-defined]
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
            rank_zero_warn(f"Checkpoint `{path}` was not written: {error}")


def ended_by_signal(trainer: Trainer, error: BaseException) -> BaseException:
    """Return the end by a signal in place of the error that a process gets when another one has ended."""
    signum = Stopping.of(trainer).signum or SIGNALS.came  # its exception may be lost in C code
    if signum is None or trainer.world_size == 1 or not isinstance(error, Exception):
        return error
    return SystemExit(STATUSES[signum])


def end_launched(trainer: Trainer) -> None:
    """Wait for the processes that a Trainer has launched, and kill those that do not end by themselves."""
    launcher, processes = trainer.strategy.launcher, launched_by(trainer)
    if launcher is None or processes is None:
        return
    take_launched()
    has_trained = WaitingCheckpoints.of(trainer).has_trained  # otherwise they may wait for this process in vain
    until = monotonic() + (_PATIENCE if has_trained else _LITTLE)
    launcher.kill(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(max(0.1, until - monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def about_end(trainer: Trainer | None, checkpoint: Any) -> str:
    """Return the line for the user about a fit that a signal has ended.

    Args:
        trainer: Its Trainer; `None` if there was none yet.
        checkpoint: The checkpoint that the fit was going to resume from.
    """
    waiting = None if trainer is None else find_callback(trainer, WaitingCheckpoints)
    has_trained, written = (waiting.has_trained, waiting.last_written) if waiting else (False, None)
    where = f"at step {trainer.global_step}" if trainer and has_trained else "before the first step"
    path = written or (trainer and trainer.ckpt_path) or checkpoint
    if not path:
        return f"stopped {where}; no checkpoint was written"
    return f"stopped {where}; resume with sparsegrad fit --ckpt_path {shlex.quote(str(path))}"
