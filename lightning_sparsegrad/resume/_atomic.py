"""Checkpoints that get their final name only when they are complete."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from lightning_sparsegrad.files._unfinished import sweep
from lightning_sparsegrad.files._writing import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """A CheckpointIO that writes a checkpoint beside its path, and moves it there once it is complete and on the disk.

    Lightning writes into the system's temporary folder and moves the file from there, which across file systems is a
    copy that a kill can interrupt. Here the unfinished file is in the folder of the checkpoint, where a move is atomic,
    see `files._writing`. A leftover of a killed process is removed when a run is resumed from that folder or writes
    into it. Paths with a protocol (`s3://`) are left to Lightning.
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
