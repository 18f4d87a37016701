"""The callback with which a run of a study records its result."""

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
PARENT = "SPARSEGRAD_STUDY_PROCESS"  # process id of the study, which its runs must not outlive
SECONDS_TO_GO = 60  # time for a run to end after its study was killed


class RunRecorder(OfOneRun):
    """Callback that writes `result.json` at the end of a fit: last metrics, scores of the most frequent class, time.

    It records an error or a divergence, too. A study reads only this file and the one of the `CSVLogger`. During the
    run it holds a lock on the folder.

    Args:
        folder: The folder of the run.
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
            is_of_study = trainer.is_global_zero and parent_process() is None  # other ranks are children of the first
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
        # otherwise the run was stopped and will be run again, or another process runs it
        if isinstance(exception, Exception) and not isinstance(exception, Timeout):
            words = " ".join(str(exception).split())
            reason = f"{type(exception).__name__}: {words}" if words else repr(exception)
            # `nonfinite="raise"` ended the run
            self._write(trainer, {"diverged" if isinstance(exception, FloatingPointError) else "error": reason})

    def _write(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            seconds = monotonic() - self._start
            write_result(self._folder, {**result, "seconds": seconds, "steps": trainer.global_step})
            self._lock.release()


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write the result of a run atomically; numbers that are not finite become `null`."""
    for name in ("metrics", "majority"):
        scores = result.get(name) or {}
        result[name] = {key: value if isfinite(value) else None for key, value in scores.items()}
    with replacing(folder / RESULT) as file:
        file.write(json.dumps(result, indent=1).encode())
