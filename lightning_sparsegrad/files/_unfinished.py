"""Files and folders that are not whole yet, written beside their places.

They are called `.<name>.<16 hexadecimal digits>.part`: a name of its own, behind which no link is followed, and locked
by the process that writes it. The system lets go of the lock when that process ends, however it ends; so what is not
locked was left behind by one that was killed, and goes when something is written into that folder, or read from it to
resume.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from secrets import token_hex
from typing import Any

from typing_extensions import override

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{16}\.part", re.DOTALL)
_LONGEST = 200  # bytes of a name that the name of a part begins with, of 255


class Unfinished(FileIO):
    """A file that is not whole yet.

    Attributes:
        path: Where it is.
        fault: Why it could not be written; writers make other errors of it, or none.
    """

    fault: OSError | None = None

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        while True:
            self.path = _new_name(path)
            try:
                descriptor = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
            except FileExistsError:
                continue  # of another, or made for us to follow
            if lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # taken for one that was left behind, between two lines
        super().__init__(descriptor, "r+b")

    @override
    def write(self, content: Any) -> int:
        """Write all of it; the system may take less at a time."""
        view, done = memoryview(content).cast("B"), 0
        try:
            while done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.fault = error
            raise
        return done

    def finish(self) -> None:
        """Have it on the disk; raise if a writer has kept silent about what it could not write."""
        if self.fault is not None:
            raise self.fault
        os.fsync(self.fileno())
        if not fcntl:
            self.close()  # Windows moves no file that is open


@contextmanager
def new_folder(beside: Path) -> Iterator[Path]:
    """Make a folder for what is not whole yet, beside a place; it goes at the end with what is still in it."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    sweep(beside.parent)
    while True:
        folder = _new_name(beside)
        folder.mkdir()
        try:
            descriptor = os.open(folder, os.O_RDONLY) if fcntl else -1
        except FileNotFoundError:  # taken for one that was left behind, between two lines
            continue
        if not fcntl or (lock(descriptor) is not False and os.fstat(descriptor).st_nlink):
            break
        os.close(descriptor)  # the same
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if fcntl:
            os.close(descriptor)


def sweep(folder: str | Path) -> None:
    """Remove what processes that were killed have left half-written in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:  # a folder that is not there, or not ours to change
        for name in [entry.name for entry in entries if is_unfinished(entry.name)] if fcntl else ():
            with suppress(OSError):
                _remove_if_left(Path(folder, name))


def is_unfinished(path: str | Path) -> bool:
    """Return whether something is not whole yet, or was left so, by its name."""
    return bool(_UNFINISHED.fullmatch(Path(path).name))


def lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed; `False` if another process has, `None` if that cannot be told."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (AttributeError, OSError):  # Windows, or a file system without locks
        return None
    return True


def _new_name(path: Path) -> Path:
    return path.parent / f".{os.fsdecode(os.fsencode(path.name)[:_LONGEST])}.{token_hex(8)}.part"


def _remove_if_left(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if lock(descriptor):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(descriptor)
