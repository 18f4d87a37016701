"""The folder of a run, and new files in it that never overwrite existing ones."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from posixpath import dirname, join
from typing import Any
from weakref import WeakKeyDictionary

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, Trainer

from lightning_sparsegrad.files import _writing as files

_LOGS = "lightning_logs"  # where Lightning itself keeps one folder per run
_OWN: WeakKeyDictionary[Trainer, str] = WeakKeyDictionary()


class OfOneRun(Callback):
    """A callback whose arguments name the folder of one run; a run that resumes from its checkpoint drops it."""


def run_folder(trainer: Trainer) -> str:
    """Return the folder of a run, the same on all ranks; all of them have to call this.

    It is the folder of the first logger, unless there is none or it writes into the working directory or the root of
    the Trainer. Then it is a new `lightning_logs/version_<n>` there, which no other run uses.
    """
    folder = ""
    if trainer.is_global_zero:
        folder = _OWN.get(trainer, "") or _folder_of_logger(trainer)
        if not folder:
            _OWN[trainer] = folder = make_next(join(_base(trainer), _LOGS, "version_"))
    return str(trainer.strategy.broadcast(folder))


def own_folder(trainer: Trainer, folder: str | Path) -> None:
    """Make a run write into a folder that was created for it."""
    _OWN[trainer] = str(folder)


def write_new(stem: str | Path, contents: Mapping[str, bytes]) -> str:
    """Write new files on any file system, see `files._writing.write_new`."""
    stem = str(stem)
    if "://" not in stem:
        return files.write_new(stem, contents)
    remote = get_filesystem(stem)
    for version in count():
        name = f"{stem}-v{version}" if version else stem
        claimed: list[str] = []
        try:
            for end, content in contents.items():
                remote.makedirs(dirname(name + end), exist_ok=True)
                with remote.open(name + end, "xb") as file:  # fails if the file exists
                    claimed.append(name + end)
                    file.write(content)
        except FileExistsError:
            for path in claimed:
                remote.rm_file(path)
        else:
            return name
    raise AssertionError


def _base(trainer: Trainer) -> str:
    """Return the parent of run folders: the `save_dir` of the first logger, else the Trainer's root."""
    of_logger = [logger.save_dir for logger in trainer.loggers[:1] if logger.save_dir]
    return str((of_logger or [trainer.default_root_dir])[0])


def _folder_of_logger(trainer: Trainer) -> str:
    """Return the folder of the first logger; empty if there is none, or if other runs use it as well."""
    for logger in trainer.loggers[:1]:
        shared = [".", trainer.default_root_dir]
        folder: Any = logger.log_dir  # of Lightning's file loggers
        if folder is None:  # where a `ModelCheckpoint` writes
            name, version = logger.name, logger.version
            folder = join(
                _base(trainer), name or "", f"version_{version}" if isinstance(version, int) else version or ""
            )
            shared.append(_base(trainer))
        if not _is_among(str(folder), shared):
            return str(folder)
    return ""


def _is_among(folder: str, shared: Sequence[str]) -> bool:
    """Return whether a folder is one of the shared folders, or contains the working directory."""
    if "://" in folder:
        return folder.rstrip("/") in {other.rstrip("/") for other in shared}
    path = Path(folder).resolve()
    return path in {Path(other).resolve() for other in shared} or path in Path.cwd().parents


def make_next(stem: str, *, first: int = 0) -> str:
    """Create the folder `<stem><first>`, or the next number that does not exist yet."""
    remote = get_filesystem(stem)
    remote.makedirs(dirname(stem) or ".", exist_ok=True)
    for number in count(first):
        path = f"{stem}{number}"
        try:
            if "://" not in path:
                Path(path).mkdir()
            elif remote.exists(path):
                continue
            else:
                remote.makedirs(path)
        except FileExistsError:
            continue
        return path
    raise AssertionError
