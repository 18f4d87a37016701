"""Files that are under their names only when they are whole, and that are written over nothing of another's.

What is not whole yet is beside its place, as `.<name>.<16 hexadecimal digits>.part`: a name of its own, behind which no
link is followed, and locked by the process that writes it. The system lets go of the lock when that process ends,
however it ends; so what is not locked was left behind by one that was killed, and goes when something is written
into that folder, or read from it to resume.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"\..*\.[0-9a-f]{16}\.part", re.DOTALL)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IN_WORDS = re.compile(r"\(os error (\d+)\)")  # of libraries written in Rust
_LONGEST = 200  # bytes of a name that the name of a part begins with, of 255
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EMLINK}


@contextmanager
def replacing(path: str | Path) -> Iterator["Part"]:
    """Write a file that takes the place of what has its name when it is whole and on the disk; else nothing changes.

    A symbolic link of that name is replaced, and what it leads to stays as it is.

    Raises:
        OSError: With the name of the file, if it cannot be written: whatever the writer made of that.
    """
    with _written(Path(path)) as part:
        yield part
        part.finish()
        part.path.replace(path)
        sync_folder(Path(path).parent)


def write_new(stem: str | Path, contents: Mapping[str, bytes]) -> str:
    """Write files that were not there before, all under one new name, each whole from the start.

    Args:
        stem: How the names begin. Where one of them is taken, all get a number, as the checkpoints of Lightning do:
            `test-v1.csv` and `test-v1.md`.
        contents: What to write, by how the names end: `{".csv": b"...", ".md": b"..."}`, or `{"/de.tsv": b"..."}`.

    Returns:
        The stem, with its number.

    Raises:
        OSError: If one cannot be written; then none of them is there.
    """
    with ExitStack() as stack:
        parts = {}
        for end, content in contents.items():
            parts[end] = part = stack.enter_context(_written(Path(f"{stem}{end.replace('/', '.')}")))
            part.write(content)
            part.finish()
        for version in count():
            name = f"{stem}-v{version}" if version else str(stem)
            if _place_all({Path(name + end): part for end, part in parts.items()}):
                return name
    raise AssertionError


@contextmanager
def new_folder(beside: Path) -> Iterator[Path]:
    """Make a folder for what is not whole yet, beside a place; it goes at the end with what is still in it."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    sweep(beside.parent)
    while True:
        folder = _name_part(beside)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY) if fcntl else -1
        if not fcntl or (lock(descriptor) is not False and os.fstat(descriptor).st_nlink):
            break
        os.close(descriptor)  # taken for one that was left behind, between two lines
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if fcntl:
            os.close(descriptor)


def fill(folder: Path, made: Path) -> None:
    """Put what a `new_folder` holds into a folder, all of it or nothing.

    Raises:
        FileExistsError: If there is something of one of these names.
    """
    placed: list[Path] = []
    try:
        for path in made.iterdir():
            target = folder / path.name
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                _place(path, target)
            placed.append(target)
    except BaseException:
        for path in placed:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def sweep(folder: str | Path) -> None:
    """Remove what processes that were killed have left half-written in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:  # a folder that is not there, or not ours to change
        for name in [entry.name for entry in entries if is_part(entry.name)] if fcntl else ():
            with suppress(OSError):
                _remove_if_left(Path(folder, name))


def full_disk(error: BaseException | None, where: str | Path) -> OSError | None:
    """Return an error that says so, if what went wrong is that nothing more could be written; `None` if not."""
    while error is not None:
        told = _IN_WORDS.search(str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if number in _FULL:
            return OSError(number, os.strerror(number), str(where))
        error = error.__cause__ or error.__context__
    return None


def is_part(path: str | Path) -> bool:
    """Return whether something is not whole yet, or was left so, by its name."""
    return bool(_PART.fullmatch(Path(path).name))


def lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed; `False` if another process has, `None` if that cannot be told."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (AttributeError, OSError):  # Windows, or a file system without locks
        return None
    return True


class Part(FileIO):
    """A file that is not whole yet.

    Attributes:
        path: Where it is.
        fault: Why it could not be written; writers make other errors of it, or none.
    """

    fault: OSError | None = None

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        while True:
            self.path = _name_part(path)
            descriptor = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
            lock(descriptor)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # taken for one that was left behind, between two lines
        super().__init__(descriptor, "r+b")

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


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _written(path: Path) -> Iterator[Part]:
    """Open a part beside a place; at the end it is gone from there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    part: Part | None = None
    try:
        with Part(path) as part:
            yield part
    except BaseException as error:
        fault = part.fault if part and part.fault else error
        if isinstance(fault, OSError) and fault.errno and (fault.filename is None or is_part(fault.filename)):
            raise OSError(fault.errno, fault.strerror, str(path)) from error  # with the name that its user knows
        raise
    finally:
        if part is not None:
            part.path.unlink(missing_ok=True)


def _name_part(path: Path) -> Path:
    return path.parent / f".{os.fsdecode(os.fsencode(path.name)[:_LONGEST])}.{token_hex(8)}.part"


def _place_all(parts: Mapping[Path, Part]) -> bool:
    """Give files their names; return whether all of these were free, else none of them is taken."""
    placed: list[Path] = []
    try:
        for path, part in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _place(part.path, path)
            placed.append(path)
            sync_folder(path.parent)
    except BaseException as error:
        for path in placed:
            path.unlink(missing_ok=True)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            return False
        raise
    return True


def _place(part: Path, path: Path) -> None:
    try:
        os.link(part, path)  # fails where there is something
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        part.replace(path)


def _remove_if_left(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if lock(descriptor):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(descriptor)
