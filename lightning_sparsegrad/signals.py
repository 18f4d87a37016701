"""SIGTERM and Ctrl+C on the command line: how a process ends after them."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from lightning.pytorch.utilities import rank_zero_only

STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as shells say it


class Ended(SystemExit):
    """The end of a command by a signal, of which one line has told the user."""


class Signals:
    """How the process ends by a signal: here, or where a Trainer that has taken the signal ends its run."""

    def __init__(self) -> None:
        self.is_taken = False  # the signal that is being handled

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Have SIGTERM end a block as Ctrl+C does: with an exception, so that what is open is closed.

        A handler that a program has set stays. What the block does to the handlers is undone when it ends. Processes
        that are forked within it end by SIGTERM as ever.
        """
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM):
            yield
            return
        self.is_taken, owner = False, os.getpid()
        before = {signum: signal.getsignal(signum) for signum in STATUSES}

        def end(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001  # as handlers are called
            if os.getpid() != owner:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            elif self.is_taken:
                self.is_taken = False
            else:
                raise SystemExit(STATUSES[signal.Signals(signum)])

        signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


SIGNALS = Signals()


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
    if rank_zero_only.rank == 0:
        sys.stderr.write(f"{line}\n")
    raise Ended(status) from error
