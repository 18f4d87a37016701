"""Progress lines where no progress bar can be seen, and the remaining time."""

import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import isfinite

from rich import get_console

from lightning_sparsegrad.errors import require_number
from lightning_sparsegrad.untrusted._terminal import shown

_MARKS = 6  # the pace is measured between the first and the last: five intervals


def is_terminal(*names: str) -> bool:
    """Return whether the named streams (`stdout`, `stderr`) are all terminals; a notebook counts as one."""
    streams = (getattr(sys, name) for name in names)
    return get_console().is_jupyter or all(stream is not None and stream.isatty() for stream in streams)


def write_line(words: Iterable[str | None]) -> None:
    """Write the given words, except `None`, as one line to stderr."""
    line = shown(", ".join(filter(None, words))) + "\n"
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # which a rich bar on stdout redirects
    if stream is not None:
        with suppress(OSError):  # a full disk or a closed pipe must not end the training
            stream.write(line)
            stream.flush()


def of_total(done: int, total: float | None) -> str:
    """Return `12/100 (12%)`, or the count alone if the total is unknown or exceeded."""
    if total is None or not isfinite(total) or not 0 < total >= done:
        return str(done)
    return f"{done}/{total:.0f} ({100 * done // int(total)}%)"


def time_left(seconds: float | None) -> str | None:
    """Return `0:03:10 left`, in hours, minutes and seconds; `None` if it is not known."""
    if seconds is None or not isfinite(seconds):
        return None
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left"


def check_seconds(parameter: str, value: float) -> None:
    """Raise a `ConfigurationError` unless a value is a positive number; infinity is allowed."""
    require_number(parameter, value, lambda seconds: seconds > 0, "a positive number of seconds")


class Pace:
    """The seconds per unit of work, measured over the last few marks."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=_MARKS)

    @property
    def has_begun(self) -> bool:
        """Whether there is a mark."""
        return bool(self._marks)

    def mark(self, done: int, seconds: float) -> None:
        """Note how many units are done at a time; a mark without progress changes nothing."""
        if not self._marks or done > self._marks[-1][0]:
            self._marks.append((done, seconds))

    def seconds_each(self, done: int, seconds: float) -> float | None:
        """Return the seconds per unit since the first mark; `None` if none was done since."""
        first, start = self._marks[0] if self._marks else (done, seconds)
        return (seconds - start) / (done - first) if done > first else None
