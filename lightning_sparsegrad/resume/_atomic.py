"""Checkpoints that are under their final name only when they are whole."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from lightning_sparsegrad.files._unfinished import sweep
from lightning_sparsegrad.files._writing import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is whole and on the disk.

    Lightning writes into the system's folder for temporary files and moves the file from there, which across file
    systems is a copy that a kill can leave half-done. Here the half-written file is in the folder of the checkpoint,
    where a move is atomic, see `files._writing`. One that a kill has left goes when a run is resumed from
    that folder or writes into it. Paths with a protocol (`s3://`) are left to Lightning.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if "://" not in str(path):
            sweep(Path(path).parent)
        return super().load_checkpoint(path, *args, **kwargs)
