"""A signal at any moment of a fit, and the run that resumes from what it leaves: bit for bit the undisturbed run."""

import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sparsegrad import ExactResume
from lightning_sparsegrad.resume.stopping import about_end
from tests.lightning.tasks import STRATEGIES
from tests.resume.runs import BATCHES, Outcome, Rows, assert_same_bits, fit

MASK_AND_CLIP = STRATEGIES["mask and clip"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Signal(Callback):
    """Sends a signal to its own process when a hook is called for the `count`-th time from a step on."""

    def __init__(self, hook: str, step: int, signum: signal.Signals = signal.SIGTERM, count: int = 1) -> None:
        self.trainer: Trainer | None = None
        self.left = count
        setattr(self, hook, lambda trainer, *_, **__: self.send(trainer, step, signum))

    def send(self, trainer: Trainer, step: int, signum: signal.Signals) -> None:
        self.trainer = trainer
        if trainer.global_step >= step:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signum)


def stop(folder: Path, at: Signal, saving: list[Callback] | None = None, **arguments: Any) -> tuple[Rows, str]:
    """Fit until a signal ends it; return what it has logged, and the checkpoint that it names."""
    rows = Rows()
    given = [ModelCheckpoint(folder, save_top_k=-1)] if saving is None else saving
    with pytest.raises(SIGTERMException) as ended:
        fit("module", MASK_AND_CLIP, callbacks=[at, *given, ExactResume()], logger=rows, **arguments)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    return rows, shlex.split(about_end(at.trainer, arguments.get("path")))[-1]


def assert_resumes(rows: Rows, path: str, whole: Outcome, **arguments: Any) -> None:
    """Assert that a run that was stopped, and the one that resumes from it, are the undisturbed run."""
    logger = Rows()
    _, resumed = fit("module", MASK_AND_CLIP, path=Path(path), logger=logger, **arguments)
    assert torch.load(path, weights_only=True)["until then"]["seen"] + len(resumed.seen) == len(whole.seen)
    assert resumed.seen == whole.seen[len(whole.seen) - len(resumed.seen) :]
    before = len(whole.rows) - len(logger.rows)
    assert logger.rows == whole.rows[before:]
    assert rows.rows[:before] == whole.rows[:before]
    assert len(rows.rows) >= before
    assert resumed.steps == whole.steps
    is_done = not logger.rows  # nothing is left to do, and neither drawn nor measured
    for name in whole.states.keys() - ({"random", "metrics"} if is_done else set()):
        assert_same_bits(resumed.states[name], whole.states[name], name)


WITHIN: dict[str, Any] = {"val_check_interval": 2, "max_epochs": 2}
ENDS: dict[str, Any] = {"max_epochs": 2}
# a hook, the step from which on it counts, and how the run validates and accumulates
MOMENTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "a batch": ("on_train_batch_start", 3, ENDS),
    "backward": ("on_after_backward", 3, ENDS),
    "the last batch": ("on_train_batch_start", BATCHES - 1, ENDS),
    "after the last batch": ("on_train_batch_end", BATCHES, ENDS),
    "a window": ("on_train_batch_start", 2, {**ENDS, "accumulate_grad_batches": 2}),
    "the validation at an epoch's end": ("on_validation_batch_start", BATCHES, ENDS),
    "the start of it": ("on_validation_start", BATCHES, ENDS),
    "the end of it": ("on_validation_end", BATCHES, ENDS),
    "the last validation": ("on_validation_batch_end", 2 * BATCHES, ENDS),
    "the end of the last validation": ("on_validation_end", 2 * BATCHES, ENDS),
    "the last validation by steps": ("on_validation_batch_end", 7, {"max_epochs": -1, "max_steps": BATCHES}),
    "the last validation by steps within": ("on_validation_start", 4, {**WITHIN, "max_epochs": -1, "max_steps": 4}),
    "a validation within an epoch": ("on_validation_batch_end", 2, WITHIN),
    "the second validation": ("on_validation_batch_end", 4, WITHIN),
    "a validation across epochs": (
        "on_validation_batch_end",
        9,
        {**ENDS, "check_val_every_n_epoch": None, "val_check_interval": 5},
    ),
    "a validation within a window": ("on_validation_batch_start", 1, {**WITHIN, "accumulate_grad_batches": 4}),
    "a validation after a window": (
        "on_validation_batch_start",
        2,
        {**ENDS, "val_check_interval": 4, "accumulate_grad_batches": 2},
    ),
    "the end of an epoch": ("on_train_epoch_end", BATCHES, ENDS),
    "the start of an epoch": ("on_train_epoch_start", BATCHES, ENDS),
    "the writing of a checkpoint": ("on_save_checkpoint", 1, ENDS),
    "the end of the training": ("on_train_end", 0, ENDS),
}
_WHOLE: dict[str, Outcome] = {}


def whole_run(arguments: dict[str, Any], **more: Any) -> Outcome:
    """Return what the undisturbed run comes to, made once."""
    key = repr(arguments)
    if more or key not in _WHOLE:
        _WHOLE[key] = fit("module", MASK_AND_CLIP, **arguments, **more)[1]
    return _WHOLE[key]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fit_stops_where_nothing_is_lost(moment: str, tmp_path: Path):
    hook, step, arguments = MOMENTS[moment]
    rows, path = stop(tmp_path, Signal(hook, step), **arguments)
    assert_resumes(rows, path, whole_run(arguments), **arguments)
