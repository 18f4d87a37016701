"""The second of two processes fails inside a window; each writes down what ended it."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from lightning_sparsegrad import ExactResume
from tests.lightning.tasks import STRATEGIES
from tests.resume.runs import fit


class Failing(Callback):
    def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 1:
            raise ValueError("broken")


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    saving = ModelCheckpoint(folder, save_on_exception=True, save_last=True, every_n_train_steps=9, filename="saved")
    callbacks = [Failing(), saving, OnExceptionCheckpoint(folder), ExactResume()]
    try:
        fit("module", STRATEGIES["mask and clip"], callbacks=callbacks, devices=2, strategy="ddp")
    except Exception as error:
        (folder / f"{rank}.txt").write_text(type(error).__name__)
    os._exit(0)  # as a process that fails does: at once, without the others
