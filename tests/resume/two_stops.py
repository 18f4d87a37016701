"""Each of two processes gets a signal, stops, resumes, and compares.

Writes down the result of each case and rank.
"""

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from lightning_sparsegrad import ExactResume
from lightning_sparsegrad.resume._stopping import about_end
from tests.lightning.tasks import STRATEGIES, dataset
from tests.resume.runs import BATCHES, THOROUGH, Rows, assert_same_bits, fit
from tests.resume.two_processes import Drifting, noisy

WITHIN: dict[str, Any] = {"val_check_interval": 2, "max_epochs": 2}
ENDS: dict[str, Any] = {"max_epochs": 2}
# hook, step, the ranks that get the signal, how the run validates, where it stops, and whether within a validation
CASES: dict[str, tuple[str, int, set[int], dict[str, Any], int, bool]] = {
    "a batch, in the second": ("on_train_batch_start", 3, {1}, ENDS, 4, False),
    "a batch, in both": ("on_before_backward", 3, {0, 1}, ENDS, 4, False),
    "a window": ("on_train_batch_start", 1, {1}, {**ENDS, "accumulate_grad_batches": 3}, 2, False),
    "the last batch of an epoch": (
        "on_train_batch_end",
        BATCHES,
        {0},
        {**ENDS, "limit_val_batches": 0},
        BATCHES,
        False,
    ),
    "a validation, in the second": ("on_validation_batch_end", BATCHES, {1}, ENDS, BATCHES, True),
    "a validation, in both": ("on_validation_batch_start", 4, {0, 1}, WITHIN, 4, True),
    "a validation, in the first": ("on_validation_start", 2, {0}, WITHIN, 2, True),
}

TRIED = list(CASES) if THOROUGH else ["a batch, in the second", "a window", "a validation, in both"]


class Signal(Callback):
    """Sends a signal to some of the processes when a hook is called for the first time from a step on."""

    def __init__(self, hook: str, step: int, ranks: set[int]) -> None:
        self.trainer: Trainer | None = None
        self.ranks, self.step = set(ranks), step
        setattr(self, hook, lambda trainer, *_, **__: self.send(trainer))

    def send(self, trainer: Trainer) -> None:
        self.trainer = trainer
        if trainer.global_step >= self.step and trainer.global_rank in self.ranks:
            self.ranks.clear()
            os.kill(os.getpid(), signal.SIGTERM)


def result_of(case: str, folder: Path) -> dict[str, Any]:
    hook, step, ranks, arguments, *_ = CASES[case]
    arguments = {**arguments, "validation": DataLoader(dataset(10), batch_size=2)}
    arguments = {**arguments, "devices": 2, "strategy": "ddp", "kind": Drifting}
    transform = STRATEGIES["mask and clip"]
    _, whole = fit("module", transform, data=noisy(), **arguments)
    at, rows = Signal(hook, step, ranks), Rows()
    callbacks = [at, ModelCheckpoint(folder, save_top_k=-1), ExactResume()]
    try:
        fit("module", transform, data=noisy(), callbacks=callbacks, logger=rows, **arguments)
    except SIGTERMException as error:
        result: dict[str, Any] = {"code": error.code}
    path = Path(shlex.split(about_end(at.trainer, None))[-1])
    stored = torch.load(path, weights_only=True)
    result["step"] = stored["global_step"]
    result["validates"] = "validates" in stored["exact_resume"]["processes"][0]
    logger = Rows()
    _, resumed = fit("module", transform, path=path, data=noisy(), logger=logger, **arguments)
    try:
        assert resumed.seen == whole.seen[len(whole.seen) - len(resumed.seen) :]
        assert logger.rows == whole.rows[len(whole.rows) - len(logger.rows) :]
        assert_same_bits(resumed.states, whole.states)
        result["fault"] = ""
    except AssertionError as error:
        result["fault"] = str(error)
    return result


def main(folder: Path) -> None:
    for case in TRIED:
        result = result_of(case, folder / case)
        (folder / f"{case} {os.environ['RANK']}.json").write_text(json.dumps(result))
