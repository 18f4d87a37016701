"""Files and folders that are still being written, beside their final paths.

They are called `.<name>.<16 hexadecimal digits>.part`: a unique name, which is opened without following links and
locked by the process that writes it. The system releases the lock when that process ends, however it ends. An unlocked
one was therefore left by a killed process, and is removed when something is written into that folder, or read from it
to resume.
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
_LONGEST = 200  # bytes of the final name that an unfinished one begins with, of at most 255


class Unfinished(FileIO):
    """A file that is still being written.

    Attributes:
        path: Its current path.
        fault: The error of a failed write, which writers may replace or hide.
    """

    fault: OSError | None = None

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        while True:
            self.path = _new_name(path)
            try:
                descriptor = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
            except FileExistsError:
                continue  # another process's, or a link planted there
            if lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # removed by another process as a leftover
        super().__init__(descriptor, "r+b")

    @override
    def write(self, content: Any) -> int:
        """Write all of the content; the system may accept less at a time."""
        view, done = memoryview(content).cast("B"), 0
        try:
            while done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.fault = error
            raise
        return done

    def finish(self) -> None:
        """Flush the file to the disk; raise the error of a failed write if the writer has hidden it."""
        if self.fault is not None:
            raise self.fault
        os.fsync(self.fileno())
        if not fcntl:
            self.close()  # Windows moves no file that is open


@contextmanager
def new_folder(beside: Path) -> Iterator[Path]:
    """Create an unfinished folder beside a path; at the end it is removed with everything still in it."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    sweep(beside.parent)
    while True:
        folder = _new_name(beside)
        folder.mkdir()
        try:
            descriptor = os.open(folder, os.O_RDONLY) if fcntl else -1
        except FileNotFoundError:  # removed by another process as a leftover
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
    """Remove the unfinished files and folders of killed processes from a folder."""
    with suppress(OSError), os.scandir(folder) as entries:  # a folder that does not exist or cannot be changed
        for name in [entry.name for entry in entries if is_unfinished(entry.name)] if fcntl else ():
            with suppress(OSError):
                _remove_if_left(Path(folder, name))


def is_unfinished(path: str | Path) -> bool:
    """Return whether a name is that of an unfinished file or folder."""
    return bool(_UNFINISHED.fullmatch(Path(path).name))


def lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed; `False` if another process has locked it, `None` if unknown."""
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
