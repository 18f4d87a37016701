"""Integrity of checkpoint files: every record of the archive has the checksum that `torch.save` wrote for it."""

import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError

_CHUNK = 1 << 20  # bytes
_TENSOR = re.compile(r"/data/\d+$")  # names of the records that `torch.save` writes for tensors
# the errors of `zipfile` for corrupt headers
_DAMAGED = (BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, OverflowError, zlib.error)


class DamagedError(ConfigurationError):
    """A checkpoint file that was changed or cut after it was written."""


class IntactCheckpoint(Callback):
    """A callback that refuses a damaged checkpoint before the fit or the evaluation starts."""

    @override
    def on_load_checkpoint(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        require_intact(trainer.ckpt_path)


def require_intact(path: Any, *, tensors: bool = True) -> None:
    """Compare the records of a checkpoint with their checksums, once per version of the file.

    `torch.load` does not: it accepts a weight of 1.0 whose bits were flipped into 1e38. Reading costs about as much as
    loading.

    Args:
        path: The file. A folder (a sharded checkpoint) and a path that is not on a local disk are not checked.
        tensors: Whether the tensors will be used; otherwise their records are not read.

    Raises:
        DamagedError: If a record differs from what was written, or the file is not an archive of `torch.save`.
    """
    if path is None or not (file := Path(path)).is_file():
        return
    status = file.stat()
    if fault := _fault(str(file.absolute()), status.st_ino, status.st_mtime_ns, status.st_size, tensors):
        raise DamagedError(
            f"Parameter `ckpt_path` should name a checkpoint as it was written. Found `ckpt_path = {path}`: {fault}."
        )


@lru_cache(maxsize=64)
def _fault(path: str, _inode: int, _changed: int, size: int, tensors: bool) -> str:
    """Return what is wrong with an archive; the cached answer holds for one version of the file."""
    if not size:
        return "the file is empty"
    with Path(path).open("rb") as file:  # an error of the system here is not a fault of the archive
        return _fault_of(file, size, tensors)


def _fault_of(file: BinaryIO, size: int, tensors: bool) -> str:
    try:
        with ZipFile(file) as archive:
            records = archive.infolist()
            if any(record.compress_type != ZIP_STORED for record in records):
                return "it has compressed records, which `torch.save` does not write"
            if sum(record.file_size for record in records) > size:
                return "its records are said to be larger than the file"
            if len({record.filename for record in records}) < len(records):
                return "a record comes twice"
            for record in records:
                if not tensors and _TENSOR.search(record.filename):
                    continue
                with archive.open(record) as content:
                    while content.read(_CHUNK):
                        pass
    except _DAMAGED as error:
        return f"it is damaged, cut, or no archive that `torch.save` writes ({' '.join(str(error).split())[:200]})"
    return ""
