"""The record that a run of a study leaves: how it ended."""

import json
import os
from math import isfinite
from multiprocessing import parent_process
from pathlib import Path
from time import monotonic
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lightning_sparsegrad.callbacks._run_folder import OfOneRun, own_folder
from lightning_sparsegrad.files._writing import replacing
from lightning_sparsegrad.loops._divergence import divergence_of
from lightning_sparsegrad.resume._launched import end_with
from lightning_sparsegrad.studies._majority import majority_scores

RESULT, LOCK = "result.json", ".lock"
PARENT = "SPARSEGRAD_STUDY_PROCESS"  # set for a run that should not outlive the study that started it
SECONDS_TO_GO = 60  # that a run whose study was killed may take to end


class RunRecorder(OfOneRun):
    """Write `result.json` when a fit ends: its last metrics, what always answering one class would get, its time.

    An error ends up there, too, and that a run has diverged. Together with a `CSVLogger`, that is all that a study
    reads of a run. While it runs it holds a lock on its folder.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._lock = FileLock(self._folder / LOCK, timeout=SECONDS_TO_GO)
        self._start = monotonic()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        own_folder(trainer, self._folder)
        if trainer.is_global_zero:
            self._lock.acquire()
        if study := os.environ.get(PARENT):
            is_of_study = trainer.is_global_zero and parent_process() is None  # other ranks are children of their first
            parent = int(study) if is_of_study else os.getppid()
            end_with(parent)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = monotonic()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        result = {"metrics": metrics, "majority": majority_scores(trainer, pl_module)}
        fault = divergence_of(trainer)
        self._write(trainer, {**result, "diverged": fault} if fault else result)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # else it was stopped and is to be run again, or another process is at it
        if isinstance(exception, Exception) and not isinstance(exception, Timeout):
            words = " ".join(str(exception).split())
            reason = f"{type(exception).__name__}: {words}" if words else repr(exception)
            # gradients that are not finite, where a run is to end with them
            self._write(trainer, {"diverged" if isinstance(exception, FloatingPointError) else "error": reason})

    def _write(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            seconds = monotonic() - self._start
            write_result(self._folder, {**result, "seconds": seconds, "steps": trainer.global_step})
            self._lock.release()


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write how a run went, whole or not at all; numbers that are not finite as `null`."""
    for name in ("metrics", "majority"):
        scores = result.get(name) or {}
        result[name] = {key: value if isfinite(value) else None for key, value in scores.items()}
    with replacing(folder / RESULT) as file:
        file.write(json.dumps(result, indent=1).encode())
