"""The end of a process on the command line after SIGTERM or Ctrl+C."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from time import monotonic
from types import FrameType
from typing import NoReturn

from lightning.pytorch.utilities import rank_zero_only

from lightning_sparsegrad.resume._launched import is_launched
from lightning_sparsegrad.resume._lightning_methods import take_launched

_PATIENCE = 5.0  # seconds after which Python should have run a handler
STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # by the convention of shells


class Ended(SystemExit):
    """The end of a command by a signal, reported to the user in one line."""


class Signals:
    """The handling of signals that end the process: here, or where a Trainer that took the signal ends its run."""

    def __init__(self) -> None:
        self.is_taken = False  # whether a Trainer took the current signal
        self.runs = False  # whether a Trainer takes signals
        self.came: signal.Signals | None = None  # a signal that no Trainer took
        self._is_ending = False
        self._is_over = False  # whether all work is done, so that a signal has nothing left to end
        self._ends = False  # whether handlers are set

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Make SIGTERM end a block as Ctrl+C does: with an exception, so that open resources are closed.

        A handler that a program has set stays. Handlers that the block changes are restored at its end. Processes that
        are forked within it end by SIGTERM as usual.
        """
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM):
            yield
            return
        self.is_taken, self.runs, self.came, self._is_ending, self._ends = False, False, None, False, True
        self._is_over = False
        before = {signum: signal.getsignal(signum) for signum in STATUSES}
        for signum in (signal.SIGTERM, *([signal.SIGINT] if self.is_default(signal.SIGINT) else [])):
            signal.signal(signum, self._end)
        try:
            with self._not_waiting():
                try:
                    yield
                finally:
                    self._is_over = True
        finally:
            self._ends, self.came = False, None
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def hold_off(self) -> None:
        """Ignore another SIGTERM, because the process is ending."""
        self._is_ending = True

    def is_default(self, signum: signal.Signals) -> bool:
        """Return whether a signal is handled by Python or here, and not by the program."""
        return signal.getsignal(signum) in {signal.SIG_DFL, signal.default_int_handler, self._end}

    def _end(self, signum: int, frame: FrameType | None) -> None:
        if self.is_taken:
            self.is_taken = False
            return
        if self._is_over:
            return
        self.came = self.came or signal.Signals(signum)
        if signum == signal.SIGINT:
            self._is_ending = True
            signal.default_int_handler(signum, frame)
        elif not self._is_ending:
            self._is_ending = True  # ignore another one, for example from a process that this one ends
            signal_launcher(signum)
            raise SystemExit(STATUSES[signal.Signals(signum)])

    def leave(self) -> None:
        """Restore the default handling of signals in a forked process.

        While a Trainer runs, a forked process gets its own process group: a signal to the Trainer's group, such as
        Ctrl+C, is handled by the Trainer, and a process that loads data for it must not end earlier.
        """
        if self.runs:
            os.setpgid(0, 0)
        if self._ends:
            signal.set_wakeup_fd(-1)
            for signum, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
                if signal.getsignal(signum) not in {signal.SIG_DFL, signal.SIG_IGN}:
                    signal.signal(signum, handler)
        self.runs = self._ends = False

    @contextmanager
    def _not_waiting(self) -> Iterator[None]:
        """End a process that waits for another one outside of Python, where no handler runs: at a rendezvous."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._end_waiting, args=(read,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(write)
            thread.join()
            os.close(read)

    def _end_waiting(self, read: int) -> None:
        while byte := os.read(read, 1):
            until = monotonic() + _PATIENCE
            launched = [] if self.runs or byte[0] not in STATUSES else take_launched()
            while byte[0] in STATUSES and not (self._is_ending or self.runs):
                if select([read], [], [], 0.1)[0]:  # the block has ended, or there is another signal
                    break
                if monotonic() > until:
                    if not getattr(rank_zero_only, "rank", 0):
                        sys.stderr.write("stopped before the first step\n")
                        sys.stderr.flush()
                    for process in launched:
                        process.kill()
                    os._exit(STATUSES[signal.Signals(byte[0])])


SIGNALS = Signals()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=SIGNALS.leave)


def signal_launcher(signum: int) -> None:
    """Forward a signal to the process from which Lightning launched this one, which forwards it to all others.

    Otherwise it would kill them all, including itself, once one of them has ended.
    """
    if is_launched() and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.kill(os.getppid(), signum)


def status_of(error: BaseException) -> int | None:
    """Return the exit status after an exception, if a signal caused it.

    Lightning exits with status 1 after Ctrl+C, and with none after SIGTERM.
    """
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return STATUSES[signal.SIGINT]
    if isinstance(error, SystemExit) and error.code in STATUSES.values():
        return int(error.code)  # type: ignore[arg-type]
    return STATUSES[signal.SIGTERM] if type(error).__name__ == "SIGTERMException" else None


def end(error: BaseException, line: str) -> NoReturn:
    """Raise the exception that ends a command: the error, or `Ended` after one line on stderr if a signal caused it.

    Args:
        error: The exception that was raised.
        line: The line for the user after a signal, written by the first of several processes.
    """
    status = status_of(error)
    if status is None or isinstance(error, Ended):
        raise error
    if not getattr(rank_zero_only, "rank", 0):
        sys.stderr.write(f"{line}\n")
    raise Ended(status) from error
