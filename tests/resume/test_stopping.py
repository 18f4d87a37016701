"""A signal at any moment of a fit, and the run that resumes from it: bit for bit the undisturbed run."""

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sparsegrad import ExactResume
from lightning_sparsegrad.resume._stopping import about_end
from tests.lightning.tasks import STRATEGIES
from tests.resume.runs import BATCHES, THOROUGH, FitResult, Rows, alternating, assert_same_bits, fit, shuffled

MASK_AND_CLIP = STRATEGIES["mask and clip"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:`.fit.ckpt_path=None.` was called without a model"),
    pytest.mark.filterwarnings("ignore:.fit.ckpt_path=.last.. is set, but there is no last checkpoint available"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Signal(Callback):
    """Sends a signal to its own process when a hook is called for the `count`-th time from a step on."""

    def __init__(
        self, hook: str, step: int, signum: signal.Signals = signal.SIGTERM, count: int = 1, *, group: bool = False
    ) -> None:
        self.group = group
        self.trainer: Trainer | None = None
        self.left = count
        setattr(self, hook, lambda trainer, *_, **__: self.send(trainer, step, signum))

    def send(self, trainer: Trainer, step: int, signum: signal.Signals) -> None:
        self.trainer = trainer
        if trainer.global_step >= step:
            self.left -= 1
            if self.left == 0:
                os.kill(0 if self.group else os.getpid(), signum)


def stop(folder: Path, at: Signal, saving: list[Callback] | None = None, **arguments: Any) -> tuple[Rows, str]:
    """Fit until a signal ends it; return the logged rows, and the checkpoint that it names."""
    rows = Rows()
    given = [ModelCheckpoint(folder, save_top_k=-1)] if saving is None else saving
    with pytest.raises(SIGTERMException) as ended:
        fit("module", MASK_AND_CLIP, callbacks=[at, *given, ExactResume()], logger=rows, **arguments)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    return rows, shlex.split(about_end(at.trainer, arguments.get("path")))[-1]


def assert_resumes(rows: Rows, path: str, whole: FitResult, **arguments: Any) -> None:
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
_WHOLE: dict[str, FitResult] = {}


def whole_run(arguments: dict[str, Any], **more: Any) -> FitResult:
    """Return the result of the undisturbed run, computed once."""
    key = repr(arguments)
    if more or key not in _WHOLE:
        _WHOLE[key] = fit("module", MASK_AND_CLIP, **arguments, **more)[1]
    return _WHOLE[key]


# each like another one; by default they are left out
ALIKE = {
    *("backward", "the last batch", "the start of it", "the end of it", "the last validation", "the second validation"),
    *("the last validation by steps", "the last validation by steps within", "a validation after a window"),
    "the start of an epoch",
}


@pytest.mark.resume
@pytest.mark.timeout(900)
def test_a_fit_stops_where_nothing_is_lost(tmp_path: Path, subtests: pytest.Subtests):
    for moment, (hook, step, arguments) in MOMENTS.items():
        if THOROUGH or moment not in ALIKE:
            with subtests.test(moment):
                rows, path = stop(tmp_path / moment, Signal(hook, step), **arguments)
                assert_resumes(rows, path, whole_run(arguments), **arguments)


SAVING: dict[str, Callable[[Path], list[Callback]]] = {
    "the last": lambda folder: [ModelCheckpoint(folder, save_last=True, save_on_exception=True)],
    "the best": lambda folder: [ModelCheckpoint(folder, monitor="val/loss", save_on_exception=True)],
    "every step": lambda folder: [ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=1)],
    "after an exception": lambda folder: [OnExceptionCheckpoint(folder)],
}


@pytest.mark.parametrize(("saving", "hook"), alternating(SAVING, ["on_before_backward", "on_validation_batch_end"]))
def test_whatever_writes_checkpoints_writes_one_to_resume_from(saving: str, hook: str, tmp_path: Path):
    rows, path = stop(tmp_path, Signal(hook, BATCHES), SAVING[saving](tmp_path), **ENDS)
    assert_resumes(rows, path, whole_run(ENDS), **ENDS)
    assert not list(tmp_path.glob("stopped-*")) or saving == "every step"


def test_without_a_callback_that_writes_checkpoints_it_says_so(tmp_path: Path):
    at = Signal("on_before_backward", 2)
    with pytest.raises(SIGTERMException):
        fit("module", MASK_AND_CLIP, callbacks=[at, ExactResume()])
    assert about_end(at.trainer, None) == "stopped at step 3; no checkpoint was written"


def test_a_resumed_fit_that_is_stopped_before_a_step_names_the_checkpoint_it_came_from(tmp_path: Path):
    rows, path = stop(tmp_path, Signal("on_before_backward", 2), **ENDS)
    before = Path(path).read_bytes()
    _, again = stop(tmp_path, Signal("on_train_start", 0), path=Path(path), **ENDS)
    assert again == path
    assert [each.name for each in tmp_path.iterdir()] == [Path(path).name]
    assert Path(path).read_bytes() == before
    assert_resumes(rows, path, whole_run(ENDS), **ENDS)


def test_a_validation_that_is_cut_short_twice(tmp_path: Path):
    rows, path = stop(tmp_path, Signal("on_validation_batch_end", BATCHES), **ENDS)
    again_rows, again = stop(tmp_path, Signal("on_validation_batch_end", BATCHES), path=Path(path), **ENDS)
    assert again == path
    assert again_rows.rows == rows.rows[-len(again_rows.rows) :]
    _, later = stop(tmp_path, Signal("on_validation_batch_end", BATCHES, count=2), path=Path(path), **ENDS)
    assert Path(later).name == "epoch=0-step=7.ckpt"
    assert_resumes(rows, path, whole_run(ENDS), **ENDS)
    _, resumed = fit("module", MASK_AND_CLIP, path=Path(later), **ENDS)
    assert_same_bits(resumed.states, whole_run(ENDS).states)


def test_averages_that_are_swapped_in_for_a_validation_are_not_saved_as_the_weights(tmp_path: Path):
    class Swapping(Callback):
        """Validates other weights than it trains."""

        def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
            self.change(pl_module, 2.0)

        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            self.change(pl_module, 0.5)

        @torch.no_grad()
        def change(self, module: Any, factor: float) -> None:
            for parameter in module.parameters():
                parameter.data *= factor

    arguments = {**ENDS, "num_sanity_val_steps": 0}
    _, whole = fit("module", MASK_AND_CLIP, callbacks=[Swapping(), ExactResume()], **arguments)
    saving = [Swapping(), ModelCheckpoint(tmp_path, save_top_k=-1)]
    _, path = stop(tmp_path, Signal("on_validation_batch_start", BATCHES), saving, **arguments)
    assert "validates" not in torch.load(path, weights_only=True)["exact_resume"]["processes"][0]
    _, resumed = fit("module", MASK_AND_CLIP, path=Path(path), callbacks=[Swapping(), ExactResume()], **arguments)
    assert_same_bits(resumed.states["weights"], whole.states["weights"])


def test_another_interval_does_not_leave_out_the_validation_that_was_cut_short(tmp_path: Path):
    _, path = stop(tmp_path, Signal("on_validation_batch_start", 2), **WITHIN)
    logger = Rows()
    fit("module", MASK_AND_CLIP, path=Path(path), logger=logger, max_epochs=1, val_check_interval=7)
    assert "val/loss_step" in logger.rows[0][1]


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_processes_that_load_data_outlive_a_signal_to_the_group(signum: signal.Signals, tmp_path: Path):
    arguments = {**ENDS, "data": shuffled(num_workers=2)}
    process = os.fork()
    if not process:
        os.setsid()
        at = Signal("on_before_backward", 3, signum, group=True)
        try:
            fit("module", MASK_AND_CLIP, callbacks=[at, ModelCheckpoint(tmp_path), ExactResume()], **arguments)
        except SIGTERMException as error:
            os._exit(int(error.code or 0))
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signum
    _, whole = fit("module", MASK_AND_CLIP, **{**ENDS, "data": shuffled(num_workers=2)})
    _, resumed = fit("module", MASK_AND_CLIP, path=tmp_path / "stopped-step=4.ckpt", **arguments)
    assert_same_bits(resumed.states, whole.states)
