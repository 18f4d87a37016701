"""SIGTERM and Ctrl+C on the command line: how a process ends after them."""

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

_PATIENCE = 5.0  # seconds that a handler may wait for Python to run it
STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as shells say it


class Ended(SystemExit):
    """The end of a command by a signal, of which one line has told the user."""


class Signals:
    """How the process ends by a signal: here, or where a Trainer that has taken the signal ends its run."""

    def __init__(self) -> None:
        self.is_taken = False  # the signal that is being handled
        self.runs = False  # whether a Trainer takes signals
        self.came: signal.Signals | None = None  # that no Trainer has taken
        self._is_ending = False
        self._is_over = False  # whether all is done, and a signal has nothing to end any more
        self._ends = False  # whether handlers are set

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Have SIGTERM end a block as Ctrl+C does: with an exception, so that what is open is closed.

        A handler that a program has set stays. What the block does to the handlers is undone when it ends. Processes
        that are forked within it end by SIGTERM as ever.
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
        """Have another SIGTERM change nothing: the process ends."""
        self._is_ending = True

    def is_default(self, signum: signal.Signals) -> bool:
        """Return whether a signal is handled by Python or here, and by nothing of the program's own."""
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
            self._is_ending = True  # another one, as of a process that this one ends, changes nothing
            tell_launcher(signum)
            raise SystemExit(STATUSES[signal.Signals(signum)])

    def leave(self) -> None:
        """Have a process that was forked handle signals as ever.

        While a Trainer runs, it has a group of its own: a signal to the group of the Trainer's process, as Ctrl+C, is
        that one's to handle, and a process that loads data for it must not end before.
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
        """End a process that waits for another one, outside of Python, where no handler runs: at a rendezvous."""
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
                if select([read], [], [], 0.1)[0]:  # the block has ended, or another signal has come
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


def tell_launcher(signum: int) -> None:
    """Send a signal on to the process that Lightning has launched this one from, which tells all the others.

    It would kill them all, itself included, when it finds that one has ended.
    """
    if is_launched() and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.kill(os.getppid(), signum)


def status_of(error: BaseException) -> int | None:
    """Return the status that a process should end with after an exception, if a signal is behind it.

    Lightning exits with status 1 on Ctrl+C, and with none on SIGTERM.
    """
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return STATUSES[signal.SIGINT]
    if isinstance(error, SystemExit) and error.code in STATUSES.values():
        return int(error.code)  # type: ignore[arg-type]
    return STATUSES[signal.SIGTERM] if type(error).__name__ == "SIGTERMException" else None


def end(error: BaseException, line: str) -> NoReturn:
    """Raise what ends a command: an error, or where a signal is behind it `Ended`, after one line on stderr.

    Args:
        error: What was raised.
        line: What the user is told of the end by a signal, by the first of several processes.
    """
    status = status_of(error)
    if status is None or isinstance(error, Ended):
        raise error
    if not getattr(rank_zero_only, "rank", 0):
        sys.stderr.write(f"{line}\n")
    raise Ended(status) from error
