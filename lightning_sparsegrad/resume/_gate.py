"""The gate of a Trainer's fits: checkpoints wait for the end of a window, and hyperparameters may change."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lightning_sparsegrad.files._checksums import require_intact
from lightning_sparsegrad.loops._gate import Gate
from lightning_sparsegrad.resume._hyperparameters import Hyperparameters
from lightning_sparsegrad.resume._waiting import INEXACT_KEY, WaitingCheckpoints


class CheckpointGate(Gate):
    """The gate of every fit, with or without `ExactResume`."""

    keys = (INEXACT_KEY,)

    def __init__(self) -> None:
        self._hyperparameters: Hyperparameters | None = None  # of the running fit

    @override
    def load(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        require_intact(trainer.ckpt_path)
        Hyperparameters.of(trainer).load(trainer, checkpoint)

    @override
    def opened(self, trainer: Trainer, *, holds_gradient: Callable[[], bool]) -> None:
        WaitingCheckpoints.of(trainer).holds_gradient = holds_gradient

    @override
    def resumed(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        WaitingCheckpoints.of(trainer).warn_if_inexact(checkpoint, trainer)

    @override
    def started(self, trainer: Trainer) -> None:
        self._hyperparameters = Hyperparameters.of(trainer)
        self._hyperparameters.fit_start(trainer)

    @override
    def save(self, checkpoint: dict[str, Any]) -> None:
        if self._hyperparameters is not None:
            self._hyperparameters.save(checkpoint)

    @override
    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        WaitingCheckpoints.of(trainer).on_exception(trainer, module, exception)
