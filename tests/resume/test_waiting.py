"""A checkpoint requested at a moment that cannot be resumed waits for one that can, or is marked as not exact."""

from datetime import timedelta
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_sparsegrad import ExactResume
from lightning_sparsegrad.resume._waiting import INEXACT_KEY
from tests.lightning.tasks import DOORS, STRATEGIES, Batch, dataset
from tests.resume.runs import BATCHES, FitResult, Sensitive, alternating, assert_went_on, fit, pairs

MASK_AND_CLIP = STRATEGIES["mask and clip"]
HOOKS = ("on_train_batch_start", "on_before_backward", "on_after_backward", "on_train_batch_end")
INEXACT = "is not exact: training stopped at step 2 inside a window"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:`?.fit.ckpt_path="),  # what an OnExceptionCheckpoint makes Lightning look for
]


class Ask(Callback):
    """Requests a checkpoint in a hook at a micro-batch of the first epoch, and notes whether it exists at once."""

    def __init__(self, path: Path, hook: str, batch: int) -> None:
        self.path, self.batch, self.at_once = path, batch, False
        setattr(self, hook, self._ask)

    def _ask(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 0 and trainer.fit_loop.epoch_loop.batch_idx == self.batch:
            trainer.save_checkpoint(self.path)
            self.at_once = self.path.exists()


class Broken(Sensitive):
    """Fails at the second micro-batch of the third window."""

    failure: BaseException = RuntimeError("broken")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if batch_idx == 5:
            raise self.failure
        return super().training_step(batch, batch_idx)


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.resume
@pytest.mark.timeout(900)
def test_inside_a_window_it_waits_for_the_step(tmp_path: Path, subtests: pytest.Subtests):
    hooks = ["on_train_batch_start", "on_before_zero_grad", "on_after_backward", "on_train_batch_end"]
    for (hook, door), exact in product(pairs(hooks, DOORS), (True, False)):
        with subtests.test(hook, door=door, exact=exact):
            asking = Ask(tmp_path / f"{hook} {door} {exact}.ckpt", hook, batch=3)
            callbacks = [*([ExactResume()] if exact else []), asking]
            _, whole = fit(door, MASK_AND_CLIP, callbacks=callbacks, accumulate_grad_batches=3)
            assert not asking.at_once
            assert step_of(asking.path) == 2
            assert torch.load(asking.path, weights_only=True)["until then"]["seen"] == 6
            if exact:
                _, resumed = fit(door, MASK_AND_CLIP, path=asking.path, accumulate_grad_batches=3)
                assert_went_on(resumed, whole, asking.path)


def test_without_an_exact_resume_it_is_written_at_once_between_windows(tmp_path: Path):
    asking = Ask(tmp_path / "asked.ckpt", "on_train_batch_end", batch=2)
    fit("module", MASK_AND_CLIP, callbacks=[asking], accumulate_grad_batches=3)
    assert asking.at_once
    assert step_of(asking.path) == 1


@pytest.mark.parametrize("exact", [True, False])
def test_the_best_and_the_last_of_validations_inside_windows_are_kept(exact: bool, tmp_path: Path):
    keeping = ModelCheckpoint(tmp_path, monitor="val/loss", save_top_k=2, save_last=True, filename="{step}")
    arguments: dict[str, Any] = {"accumulate_grad_batches": 3, "val_check_interval": 2}
    _, whole = fit("module", MASK_AND_CLIP, callbacks=[keeping, *([ExactResume()] if exact else [])], **arguments)
    written = {str(path) for path in tmp_path.iterdir()}
    assert written == {*keeping.best_k_models, keeping.last_model_path}
    assert keeping.best_model_path in written
    stored = torch.load(keeping.last_model_path, weights_only=True)["callbacks"][keeping.state_key]
    assert stored["last_model_path"] == keeping.last_model_path
    assert stored["best_k_models"].keys() == keeping.best_k_models.keys()
    if exact:
        _, resumed = fit("module", MASK_AND_CLIP, path=Path(keeping.last_model_path), **arguments)
        assert_went_on(resumed, whole, Path(keeping.last_model_path))


def test_an_older_checkpoint_goes_when_the_newer_is_there(tmp_path: Path):
    class Watching(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.append(len(list(tmp_path.glob("*.ckpt"))))

    seen: list[int] = []
    newest = ModelCheckpoint(tmp_path, filename="{step}")
    arguments: dict[str, Any] = {"accumulate_grad_batches": 3, "val_check_interval": 2}
    fit("module", MASK_AND_CLIP, callbacks=[newest, Watching(), ExactResume()], **arguments)
    assert seen[0] == 0
    assert seen[seen.index(1) :] == [1] * (len(seen) - seen.index(1))
    assert seen.count(1) > 14


@pytest.mark.filterwarnings("ignore:Checkpoint .* is not exact")
@pytest.mark.parametrize("exact", [True, False])
def test_a_link_waits_for_what_it_leads_to(exact: bool, tmp_path: Path):
    class Watching(Callback):
        def on_validation_end(self, *_: Any) -> None:
            written.append(last.exists() or not last.is_symlink())

    class Failing(Sensitive):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            if self.trainer.global_step == 4:
                raise RuntimeError("broken")
            super().validation_step(batch, batch_idx)

    written: list[bool] = []
    last = tmp_path / "last.ckpt"
    linking = ModelCheckpoint(tmp_path, save_last="link", every_n_train_steps=1, filename="{step}")
    callbacks = [linking, Watching(), *([ExactResume()] if exact else [])]
    with pytest.raises(RuntimeError, match="broken"):
        fit("module", MASK_AND_CLIP, callbacks=callbacks, kind=Failing, val_check_interval=2)
    assert written == [True]
    assert step_of(last) == 4
    assert (INEXACT_KEY in torch.load(last, weights_only=True)) == exact  # the validation belongs to the step


def test_asked_for_by_the_clock_it_waits_too(tmp_path: Path):
    by_time = ModelCheckpoint(tmp_path, train_time_interval=timedelta(0), save_top_k=-1, filename="{step}")
    _, whole = fit("module", MASK_AND_CLIP, callbacks=[by_time, ExactResume()], accumulate_grad_batches=3)
    assert {step_of(path) for path in tmp_path.iterdir()} == set(range(1, 10))
    _, resumed = fit("module", MASK_AND_CLIP, path=tmp_path / "step=5.ckpt", accumulate_grad_batches=3)
    assert_went_on(resumed, whole, tmp_path / "step=5.ckpt")


@pytest.mark.parametrize(
    ("error", "exact", "door"),
    [
        (RuntimeError("broken"), True, "module"),
        (KeyboardInterrupt(), True, "callback"),
        (RuntimeError("broken"), False, "callback"),
        (KeyboardInterrupt(), False, "module"),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                (RuntimeError("broken"), True, "callback"),
                (KeyboardInterrupt(), True, "module"),
                (RuntimeError("broken"), False, "module"),
                (KeyboardInterrupt(), False, "callback"),
            )
        ),
    ],
)
def test_after_an_exception_inside_a_window_it_is_marked(error: BaseException, exact: bool, door: str, tmp_path: Path):
    kind = type("Raising", (Broken,), {"failure": error})
    asking = Ask(tmp_path / "asked.ckpt", "on_train_batch_end", batch=4)
    saving = ModelCheckpoint(tmp_path, save_on_exception=True, save_last=True, filename="{step}", every_n_train_steps=9)
    callbacks = [asking, OnExceptionCheckpoint(tmp_path), saving, *([ExactResume()] if exact else [])]
    expected = SystemExit if isinstance(error, KeyboardInterrupt) else RuntimeError
    with pytest.warns(UserWarning, match=INEXACT) as warned, pytest.raises(expected):
        fit(door, MASK_AND_CLIP, callbacks=callbacks, kind=kind, accumulate_grad_batches=2)
    marked = [str(warning.message) for warning in warned if "is not exact" in str(warning.message)]
    names = {"asked.ckpt", "on_exception.ckpt", "step=2.ckpt", "last.ckpt"}
    assert len(marked) == len(names)
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(any(name in message for message in marked) for name in names)
    for name in names:
        stored = torch.load(tmp_path / name, weights_only=True)
        assert (stored["global_step"], stored[INEXACT_KEY]) == (2, {"step": 2})


@pytest.mark.filterwarnings("ignore:.*is not exact")  # Lightning resumes from such a checkpoint by itself
@pytest.mark.parametrize("exact", [True, False])
def test_a_fit_that_fails_before_it_trains_leaves_the_checkpoint_of_an_exception(exact: bool, tmp_path: Path):
    class Unready(Sensitive):
        def on_train_start(self) -> None:
            super().on_train_start()
            raise RuntimeError("not ready")

    path = tmp_path / "on_exception.ckpt"
    callbacks = [*([ExactResume()] if exact else []), OnExceptionCheckpoint(tmp_path)]

    def fail(kind: type[Sensitive]) -> None:
        with pytest.raises(RuntimeError):
            fit("module", MASK_AND_CLIP, callbacks=callbacks, kind=kind)

    with pytest.warns(UserWarning, match="is not exact"):
        fail(Broken)
    before = path.read_bytes()
    with pytest.warns(UserWarning, match=f"Checkpoint `{path}` is kept: the fit that would replace it has not"):
        fail(Unready)
    assert path.read_bytes() == before


class Fail(Callback):
    """Fails in a hook at a micro-batch of the second epoch."""

    def __init__(self, hook: str, batch: int) -> None:
        self.batch = batch
        setattr(self, hook, self._fail)

    def _fail(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1 and trainer.fit_loop.epoch_loop.batch_idx == self.batch:
            raise RuntimeError("broken")


class FailAfterTheStep(Fail):
    """Fails, as an interrupt may, where a step is done and Lightning has not counted its micro-batch."""

    def __init__(self, batch: int) -> None:
        super().__init__("after_the_step", batch)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        progress.increment_processed = partial(self._fail, trainer)


@cache
def whole_run(door: str) -> FitResult:
    return fit(door, MASK_AND_CLIP, accumulate_grad_batches=2)[1]


FAILURES = [
    ("on_before_backward", 0, 4, 0),  # in the first window of an epoch
    ("on_before_backward", 2, 5, 2),  # in the first micro-batch of a window
    ("on_before_backward", 3, 5, 2),
    ("on_after_backward", 3, 5, 2),  # of the micro-batch that closes it
    ("on_before_optimizer_step", 3, 5, 2),
    ("on_train_batch_end", 2, 5, 2),
    ("on_train_batch_end", 3, 6, 4),  # the step is done
    ("on_train_batch_end", 6, 8, 7),  # the last
    ("on_validation_batch_start", 6, 8, 7),
]


@pytest.mark.resume
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:Checkpoint .* is not exact")
def test_a_resume_from_what_is_not_exact_loses_nothing(tmp_path: Path, subtests: pytest.Subtests):
    for (hook, batch, step, used), door in pairs(FAILURES, DOORS):
        folder = tmp_path / f"{hook} {batch} {door}"
        callbacks = [Fail(hook, batch), OnExceptionCheckpoint(folder), ExactResume()]
        with subtests.test(hook, batch=batch, door=door):
            with pytest.raises(RuntimeError, match="broken"):
                fit(door, MASK_AND_CLIP, callbacks=callbacks, accumulate_grad_batches=2)
            assert_loses_nothing(folder / "on_exception.ckpt", door, step, used)


@pytest.mark.filterwarnings("ignore:Checkpoint .* is not exact")
def test_an_interrupt_right_after_a_step_loses_nothing(tmp_path: Path):
    callbacks = [FailAfterTheStep(3), OnExceptionCheckpoint(tmp_path), ExactResume()]
    with pytest.raises(RuntimeError, match="broken"):
        fit("module", MASK_AND_CLIP, callbacks=callbacks, accumulate_grad_batches=2)
    assert_loses_nothing(tmp_path / "on_exception.ckpt", "module", step=6, used=4)


def assert_loses_nothing(path: Path, door: str, step: int, used: int) -> None:
    """Assert that a resume continues after a step, and after so many batches of its epoch."""
    assert step_of(path) == step
    whole = whole_run(door)
    match = f"on_exception.ckpt` is not exact: training stopped at step {step} "
    with pytest.warns(UserWarning, match=match) as warned:
        run, resumed = fit(door, MASK_AND_CLIP, path=path, accumulate_grad_batches=2)
    assert len([each for each in warned if "not exact" in str(each.message)]) == 1
    rest = BATCHES - used
    assert resumed.seen[:rest] == whole.seen[BATCHES + used : 2 * BATCHES]
    assert sum(resumed.seen[rest:]) == pytest.approx(sum(whole.seen[2 * BATCHES :]), abs=1e-4)  # in another order
    assert resumed.steps == whole.steps
    assert [row[0] for row in resumed.rows if "loss_step" in row[1]] == list(range(step, whole.steps))
    assert all(parameter.requires_grad for parameter in run.lightning_module.parameters())


@pytest.mark.filterwarnings("ignore:Checkpoint .* is not exact")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(("failure", "door"), alternating([(0, 4), (3, 5)], DOORS))
def test_without_an_exact_resume_a_marked_checkpoint_goes_on_too(failure: tuple[int, int], door: str, tmp_path: Path):
    batch, step = failure
    with pytest.raises(RuntimeError, match="broken"):
        fit(
            door,
            MASK_AND_CLIP,
            callbacks=[Fail("on_before_backward", batch), OnExceptionCheckpoint(tmp_path)],
            accumulate_grad_batches=2,
        )
    path = tmp_path / "on_exception.ckpt"
    assert step_of(path) == step
    with pytest.warns(UserWarning, match=f"is not exact: training stopped at step {step} "):
        _, resumed = fit(door, MASK_AND_CLIP, path=path, callbacks=[], accumulate_grad_batches=2)
    assert resumed.steps == 12
    assert [row[0] for row in resumed.rows if "loss_step" in row[1]] == list(range(step, 12))


@pytest.mark.filterwarnings("ignore:Checkpoint .* is not exact")
def test_what_a_window_leaves_out_is_not_frozen_in_a_checkpoint_of_an_exception(tmp_path: Path):
    with pytest.raises(RuntimeError, match="broken"):
        fit(
            "module",
            STRATEGIES["head"],
            callbacks=[Fail("on_before_backward", 3), OnExceptionCheckpoint(tmp_path), ExactResume()],
        )
    path = tmp_path / "on_exception.ckpt"
    (state,) = torch.load(path, weights_only=True)["exact_resume"]["processes"]
    assert state["switches"]["frozen"] == []


@pytest.mark.filterwarnings("ignore:Checkpoint .* is not exact")
def test_data_that_fail_to_load_leave_a_checkpoint(tmp_path: Path):
    def collate(samples: list[Any]) -> Any:
        if torch.equal(samples[0][0], dataset(BATCHES)[8][0]):
            raise OSError("unreadable")
        return default_collate(samples)

    path = tmp_path / "on_exception.ckpt"
    data = DataLoader(dataset(BATCHES), batch_size=2, collate_fn=collate)
    with pytest.raises(OSError, match="unreadable"):
        fit("module", MASK_AND_CLIP, data=data, callbacks=[OnExceptionCheckpoint(tmp_path), ExactResume()])
    assert step_of(path) == 4
    _, whole = fit("module", MASK_AND_CLIP, data=DataLoader(dataset(BATCHES), batch_size=2))
    with pytest.warns(UserWarning, match="is not exact"):
        _, resumed = fit("module", MASK_AND_CLIP, data=DataLoader(dataset(BATCHES), batch_size=2), path=path)
    assert resumed.seen == whole.seen[4:]


def test_after_sigterm_between_batches_it_is_written(tmp_path: Path):
    class Terminated(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            trainer._signal_connector.received_sigterm = trainer.global_step == 2

    _, whole = fit("module", MASK_AND_CLIP)
    path = tmp_path / "on_exception.ckpt"
    with pytest.raises(SIGTERMException):
        fit("module", MASK_AND_CLIP, callbacks=[Terminated(), OnExceptionCheckpoint(tmp_path), ExactResume()])
    _, resumed = fit("module", MASK_AND_CLIP, path=path)
    assert_went_on(resumed, whole, path)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("exact", [True, False])
def test_at_the_end_of_training_inside_a_window_it_is_marked(exact: bool, tmp_path: Path):
    class Stopping(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.fit_loop.epoch_loop.batch_idx == 4

    callbacks = [Stopping(), ModelCheckpoint(tmp_path, save_last=True), *([ExactResume()] if exact else [])]
    with pytest.warns(UserWarning, match=INEXACT):
        run, stopped = fit("module", MASK_AND_CLIP, callbacks=callbacks, accumulate_grad_batches=2)
    assert step_of(tmp_path / "last.ckpt") == 2
    run.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    assert step_of(tmp_path / "weights.ckpt") == 2
    with pytest.warns(UserWarning, match="last.ckpt` is not exact"):
        _, resumed = fit(
            "module",
            MASK_AND_CLIP,
            path=tmp_path / "last.ckpt",
            callbacks=[ExactResume()] if exact else [],
            accumulate_grad_batches=2,
        )
    assert resumed.steps == 12
    if exact:
        assert resumed.seen[0] == stopped.seen[4]


def test_after_a_fit_it_is_written_at_once(tmp_path: Path):
    run, whole = fit("module", MASK_AND_CLIP, max_epochs=2)
    run.save_checkpoint(tmp_path / "end.ckpt")
    _, longer = fit("module", MASK_AND_CLIP)
    _, resumed = fit("module", MASK_AND_CLIP, path=tmp_path / "end.ckpt")
    assert whole.seen + resumed.seen == longer.seen
    assert resumed.rows == longer.rows[len(whole.rows) :]
