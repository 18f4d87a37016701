"""Checkpoints that are under their final name only when they are whole."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is whole and on the disk.

    Lightning writes into the system's folder for temporary files and moves the file from there, which across file
    systems is a copy that a kill can leave half-done. Here the half-written file is `.<name>.part` in the folder of the
    checkpoint, where a move is atomic. One that a kill has left is overwritten when the resumed run writes the
    checkpoint of that name, and goes when that checkpoint is removed; nothing reads it. Paths with a protocol (`s3://`)
    are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        part = _part(path)
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(part.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def remove_checkpoint(self, path: _PATH) -> None:
        super().remove_checkpoint(path)
        if "://" not in str(path):
            _part(path).unlink(missing_ok=True)


def _part(path: _PATH) -> Path:
    return Path(path).parent / f".{Path(path).name}.part"
