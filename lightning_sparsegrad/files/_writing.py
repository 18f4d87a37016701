"""Atomic writes: files get their names only when they are complete, and never replace another run's file."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from lightning_sparsegrad.files._unfinished import Unfinished, is_unfinished, sweep

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IN_WORDS = re.compile(r"\(os error (\d+)\)")  # in messages of libraries written in Rust
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EMLINK}


@contextmanager
def replacing(path: str | Path) -> Iterator[Unfinished]:
    """Write a file that replaces the one of its name once it is complete and on the disk; on an error nothing changes.

    A symbolic link of that name is replaced, and its target stays as it is.

    Raises:
        OSError: If the file cannot be written, with its name, whatever error the writer raised.
    """
    with _written(Path(path)) as file:
        yield file
        file.finish()
        file.path.replace(path)
        sync_folder(Path(path).parent)


@contextmanager
def creating(path: str | Path) -> Iterator[Unfinished]:
    """Write a file that gets its name, if that is free, once it is complete and on the disk.

    Raises:
        FileExistsError: If the name is taken.
        OSError: If the file cannot be written, with its name, whatever error the writer raised.
    """
    with _written(Path(path)) as file:
        yield file
        file.finish()
        _give_name(file.path, Path(path))
        sync_folder(Path(path).parent)


def write_new(stem: str | Path, contents: Mapping[str, bytes]) -> str:
    """Write new files, all with one new stem, each complete from the start.

    Args:
        stem: Start of the names. If one of the names is taken, all get a number, as Lightning's checkpoints do:
            `test-v1.csv` and `test-v1.md`.
        contents: Content by the end of the name: `{".csv": b"...", ".md": b"..."}`, or `{"/de.tsv": b"..."}`.

    Returns:
        The stem, with its number.

    Raises:
        OSError: If one cannot be written; then none of them exists.
    """
    with ExitStack() as stack:
        files = {}
        for end, content in contents.items():
            files[end] = file = stack.enter_context(_written(Path(f"{stem}{end.replace('/', '.')}")))
            file.write(content)
            file.finish()
        for version in count():
            name = f"{stem}-v{version}" if version else str(stem)
            if _name_all({Path(name + end): file for end, file in files.items()}):
                return name
    raise AssertionError


def fill(folder: Path, made: Path) -> None:
    """Move the content of a `new_folder` into a folder, all of it or nothing.

    Raises:
        FileExistsError: If one of these names is taken.
    """
    placed: list[Path] = []
    try:
        for path in made.iterdir():
            target = folder / path.name
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                _give_name(path, target)
            placed.append(target)
    except BaseException:
        for path in placed:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def full_disk(error: BaseException | None, where: str | Path) -> OSError | None:
    """Return an error that says so, if a full disk or quota is the cause; else `None`."""
    while error is not None:
        match = _IN_WORDS.search(str(error))
        number = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
        if number in _FULL:
            return OSError(number, os.strerror(number), str(where))
        error = error.__cause__ or error.__context__
    return None


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _written(path: Path) -> Iterator[Unfinished]:
    """Open an unfinished file beside a path; at the end it is removed from there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    file: Unfinished | None = None
    try:
        with Unfinished(path) as file:
            yield file
    except BaseException as error:
        fault = file.fault if file and file.fault else error
        if isinstance(fault, OSError) and fault.errno and (fault.filename is None or is_unfinished(fault.filename)):
            raise OSError(fault.errno, fault.strerror, str(path)) from error  # with the name that the user knows
        raise
    finally:
        if file is not None:
            file.path.unlink(missing_ok=True)


def _name_all(files: Mapping[Path, Unfinished]) -> bool:
    """Give files their names if all of these are free, and return whether they were."""
    placed: list[Path] = []
    try:
        for path, file in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _give_name(file.path, path)
            placed.append(path)
            sync_folder(path.parent)
    except BaseException as error:
        for path in placed:
            path.unlink(missing_ok=True)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            return False
        raise
    return True


def _give_name(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # fails if the name is taken
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        source.replace(target)
