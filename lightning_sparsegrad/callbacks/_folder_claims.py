"""Locks on the folders of a run, so that runs that start at the same time do not share one."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from posixpath import join
from weakref import WeakSet, finalize

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_sparsegrad.callbacks._lightning import given_version, set_version
from lightning_sparsegrad.callbacks._run_folder import make_next
from lightning_sparsegrad.files._unfinished import lock

_LOGS = ("metrics.csv", "hparams.yaml")


class Claims:
    """Folders that are locked for this process; the system releases them when it ends, however it ends."""

    def __init__(self) -> None:
        self._locks: dict[Path, int] = {}
        self._made: list[Path] = []
        _ALL.add(self)
        finalize(self, _release, self._locks, self._made, os.getpid())

    def take(self, folder: str | Path) -> bool:
        """Create a folder and lock it; `False` if another run has locked it."""
        path = Path(folder).resolve()
        while path not in self._locks:
            self._make(path)
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # its run has ended without writing anything
                continue
            except PermissionError:  # Windows cannot open folders; or the folder is write-only
                return True
            if lock(descriptor) is False:
                os.close(descriptor)
                return False
            self._locks[path] = descriptor
            if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
                os.close(self._locks.pop(path))
        return True

    def take_new(self, stem: str, *, first: int = 0) -> str:
        """Create and lock the folder `<stem><first>`, or the next number that does not exist yet."""
        for number in count(first):
            path = Path(f"{stem}{number}").resolve()
            self._make(path.parent)
            try:
                path.mkdir()
            except FileExistsError:
                continue
            self._made.append(path)
            if self.take(path):
                return f"{stem}{number}"
        raise AssertionError

    def unlock(self) -> None:
        """Unlock the folders for other runs."""
        _unlock(self._locks, os.getpid())

    def release(self) -> None:
        """Unlock all folders, and remove those that were created but not used."""
        _release(self._locks, self._made, os.getpid())

    def _make(self, path: Path) -> None:
        for folder in (*reversed(path.parents), path):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                self._made.append(folder)

    @override
    def __reduce__(self) -> tuple[type["Claims"], tuple[()]]:
        return Claims, ()  # locks are not copied to another process

    def forget(self) -> None:
        """Leave the locks to the process that this one was forked from."""
        for descriptor in self._locks.values():
            os.close(descriptor)
        self._locks.clear()
        self._made.clear()


_ALL: WeakSet[Claims] = WeakSet()


def _release(locks: dict[Path, int], made: list[Path], process: int) -> None:
    if os.getpid() != process:
        return
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:  # it is not empty
            continue
    made.clear()
    _unlock(locks, process)


def _unlock(locks: dict[Path, int], process: int) -> None:
    if os.getpid() == process:
        for descriptor in locks.values():
            os.close(descriptor)
        locks.clear()


def _forget_all() -> None:
    for claims in list(_ALL):
        claims.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class FolderClaims(Callback):
    """Keep the folders of logs and checkpoints to one run while it is active.

    A `CSVLogger` or a `TensorBoardLogger` without a version takes the next one that no other run has created. A
    `CSVLogger` with a version logs into a new one, `<version>-v1`, if its folder already has logs, which it would
    delete, or another run is active in it. If another run is active in the folder of a `ModelCheckpoint`, the
    checkpoints go into `<folder>-v1`, and so on. Process 0 decides, and the others follow.
    """

    def __init__(self) -> None:
        super().__init__()
        self._claims = Claims()

    def claim_logs(self, trainer: Trainer) -> None:
        """Claim the folders of the loggers; call it before a run, which creates them before any hook."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if not isinstance(logger, (CSVLogger, TensorBoardLogger)):
                continue
            if _is_elsewhere(str(logger.root_dir)):
                if isinstance(logger, CSVLogger) and _has_logs(logger.log_dir):
                    _move_on(logger, make_next)
            elif given_version(logger) is None:
                path = self._claims.take_new(join(logger.root_dir, "version_"), first=int(logger.version))
                set_version(logger, int(path.rpartition("_")[2]))
            elif isinstance(logger, CSVLogger) and (_has_logs(logger.log_dir) or not self._claims.take(logger.log_dir)):
                _move_on(logger, self._claims.take_new)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            for logger in trainer.loggers:
                if isinstance(logger, (CSVLogger, TensorBoardLogger)):
                    set_version(logger, trainer.strategy.broadcast(given_version(logger)))
        if stage != "fit" or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]  # set by its connector
            return
        for callback in trainer.checkpoint_callbacks:
            folder = _folder_of(callback, trainer) if isinstance(callback, ModelCheckpoint) else None
            if folder and not _is_elsewhere(folder) and not self._claims.take(folder):
                callback.dirpath = self._claims.take_new(f"{folder.rstrip('/')}-v", first=1)  # type: ignore[attr-defined]
                rank_zero_info(
                    f"Another run is active in `{folder}`: the checkpoints of this one go into `{callback.dirpath}`."  # type: ignore[attr-defined]
                )

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._claims.unlock()  # loggers still write once

    def release(self) -> None:
        """Release the folders, and remove those in which nothing was written."""
        self._claims.release()


def _folder_of(callback: ModelCheckpoint, trainer: Trainer) -> str | None:
    """Return where a `ModelCheckpoint` will write; `None` if the version of a logger makes that folder unique."""
    if callback.dirpath is not None:
        return str(callback.dirpath)
    return None if trainer.loggers else join(trainer.default_root_dir, "checkpoints")


def _has_logs(folder: str) -> bool:
    files = get_filesystem(folder)
    return any(files.exists(join(folder, name)) for name in _LOGS)


def _is_elsewhere(folder: str) -> bool:
    """Return whether a folder is on another file system, or has a name that only its logger can expand."""
    return "://" in folder or folder.startswith("~") or "$" in folder


def _move_on(logger: CSVLogger, take_new: Callable[..., str]) -> None:
    folder = str(logger.log_dir)
    stem = f"{folder.rstrip('/')}-v" if str(logger.version) else join(logger.root_dir, "version_")
    version = take_new(stem, first=1 if str(logger.version) else 0)
    set_version(logger, version.rpartition("/")[2])
    rank_zero_info(f"`{folder}` already has logs, or another run is active in it: this run logs into `{version}`.")
