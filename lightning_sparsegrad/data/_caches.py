"""The cache of `datasets`, cleared of half-written files of killed runs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from lightning_sparsegrad.files._unfinished import lock

if TYPE_CHECKING:
    from datasets import Dataset

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LEFT = re.compile(r"tmp[a-z0-9_]{8}")  # `tempfile`'s names of files that `datasets` renames when they are complete
_OURS = "generator"  # the folder of rows that this library read; other programs write to the other folders, too
_A_DAY = 24 * 60 * 60


@contextmanager
def caching(rows: Dataset) -> Iterator[None]:
    """Lock the cache folders of the rows while encoding, after removing half-written files.

    Processes that encode share a lock on the folder. A process that gets the lock exclusively removes such files, since
    nobody writes them any more. In folders of other programs it removes only files unchanged for a day.
    """
    folders = {Path(file["filename"]).parent for file in rows.cache_files} if fcntl else set[Path]()
    descriptors = []
    try:
        for folder in folders:
            with suppress(OSError):  # no permission, or a file system without locks
                descriptors.append(os.open(folder, os.O_RDONLY))
                _share(descriptors[-1], folder)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _share(descriptor: int, folder: Path) -> None:
    if lock(descriptor):
        _sweep(folder)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _sweep(folder: Path) -> None:
    latest = time.time() - (0 if _OURS in folder.parts else _A_DAY)
    for path in folder.iterdir():
        if _LEFT.fullmatch(path.name):
            with suppress(OSError):
                status = path.lstat()
                if S_ISREG(status.st_mode) and status.st_mtime < latest:
                    path.unlink()
