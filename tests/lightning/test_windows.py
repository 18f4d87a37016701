"""The life of a window under a Trainer: one optimizer step, one transform, on the whole gradient."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from lightning_sparsegrad import Chain, ConfigurationError, GradDrop, GradientTransform, Linear
from lightning_sparsegrad.functional import derive_key, keep_mask
from tests.cases import cases

from .tasks import (
    BATCHES,
    DOORS,
    SEED,
    STRATEGIES,
    Batch,
    Recording,
    Regression,
    Stream,
    assert_same_weights,
    door_of,
    fit,
    loader,
    plain_loop,
    through,
    trainer,
    weights,
    windows,
)

RETURNED_NONE = "ignore:`training_step` returned `None`"
MASK_AND_CLIP = STRATEGIES["mask and clip"]

pytestmark = pytest.mark.parametrize("door", DOORS)


def record(door: str, transform: GradientTransform, *args: Any, **kwargs: Any) -> tuple[Trainer, list[tuple[int, Any]]]:
    """Fit a task; return the step and epoch of every window the transform was applied in, too."""
    run = fit(door, Chain({"record": Recording(), "strategy": transform}), *args, **kwargs)
    chain = door_of(run).gradient_engine.transform
    assert isinstance(chain, Chain)
    recording = chain.transforms["record"]
    assert isinstance(recording, Recording)
    assert [step for step, _ in recording.windows] == list(range(run.global_step))
    return run, recording.windows


# ---------------------------------------------------------------- against a plain loop
@cases("accumulate", [1, 3])
@cases("strategy", STRATEGIES)
def test_weights_are_those_of_a_plain_loop(door: str, strategy: str, accumulate: int) -> None:
    run, applied = record(door, STRATEGIES[strategy], accumulate_grad_batches=accumulate, max_epochs=2)
    expected = windows(accumulate, accumulate)
    assert [epoch for _, epoch in applied] == [epoch for epoch, _, _ in expected]
    assert_same_weights(weights(run), plain_loop(Regression(), STRATEGIES[strategy], expected))


def test_weights_are_those_of_masks_and_clips_written_out(door: str) -> None:
    run = fit(door, MASK_AND_CLIP, accumulate_grad_batches=2)
    task = Regression()
    optimizer = task.configure_optimizers()
    for step, (_, divisor, batches) in enumerate(windows(2)):
        optimizer.zero_grad()
        for batch in batches:
            torch.autograd.backward(task.loss(batch) / divisor)
        for name, parameter in task.named_parameters():
            assert parameter.grad is not None
            parameter.grad *= keep_mask(parameter.shape, derive_key("GradDrop", SEED, step, name), 0.5)
            clip_grad_norm_([parameter], 0.02)
        optimizer.step()
    torch.testing.assert_close(weights(run), weights(task), rtol=1e-5, atol=1e-7)


def test_no_two_strategies_train_the_same(door: str) -> None:
    trained = [weights(fit(door, strategy)) for strategy in STRATEGIES.values()]
    assert len({tuple(float(weight.sum()) for weight in each.values()) for each in trained}) == len(STRATEGIES)


# ---------------------------------------------------------------- where windows end
def test_windows_end_with_an_epoch_of_limited_batches(door: str) -> None:
    run, applied = record(door, MASK_AND_CLIP, accumulate_grad_batches=3, limit_train_batches=5, max_epochs=2)
    assert applied == [(0, 0), (1, 0), (2, 1), (3, 1)]
    expected = windows(3, 3, batches=list(loader())[:5])
    assert_same_weights(weights(run), plain_loop(Regression(), MASK_AND_CLIP, expected))


def test_validation_inside_a_window_changes_nothing(door: str) -> None:
    run, applied = record(door, MASK_AND_CLIP, accumulate_grad_batches=3, val_check_interval=2, max_epochs=2)
    assert len(applied) == 6
    assert "val/loss" in run.callback_metrics
    assert_same_weights(weights(run), plain_loop(Regression(), MASK_AND_CLIP, windows(3, 3)))


class Kept(Callback):
    """Reads the share of entries kept after every micro-batch."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.shares.append(float(door_of(trainer).gradient_engine.statistics["kept"]))


def test_a_schedule_follows_the_optimizer_steps_of_the_whole_fit(door: str) -> None:
    kept = Kept()
    fit(door, GradDrop(Linear(0.9, 0.0)), callbacks=[kept], accumulate_grad_batches=3, max_epochs=2)
    at_steps = [kept.shares[batch] for batch in (2, 5, 6, 9, 12, 13)]
    assert at_steps == pytest.approx([0.1, 0.28, 0.46, 0.64, 0.82, 1.0], abs=0.08)
    assert at_steps[-1] == 1


def test_a_schedule_over_a_fit_without_end_is_refused(door: str) -> None:
    with pytest.raises(ConfigurationError, match="`total_steps` should be given for `GradDrop` with a schedule"):
        fit(door, GradDrop(Linear(0.8, 0.0)), data=DataLoader(Stream(), batch_size=2))


# ---------------------------------------------------------------- steps without a loss
class Skipping(Regression):
    """Returns no loss for some micro-batches."""

    skipped: tuple[int, ...] = ()
    set_to_none = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return None if batch_idx in self.skipped else self.loss(batch)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=self.set_to_none)


@pytest.mark.filterwarnings(RETURNED_NONE)
@cases("set_to_none", [True, False])
@cases(
    ("accumulate", "skipped"),
    [(3, (2,)), (3, (0, 1)), (3, (3, 4, 5)), (3, (6,)), (1, (0,)), (1, (3, 4)), (3, tuple(range(BATCHES)))],
    ids=str,
)
def test_micro_batches_without_a_loss(door: str, accumulate: int, skipped: tuple[int, ...], set_to_none: bool) -> None:
    kind = type("Task", (Skipping,), {"skipped": skipped, "set_to_none": set_to_none})
    run, applied = record(door, MASK_AND_CLIP, kind, accumulate_grad_batches=accumulate)
    assert len(applied) == len(windows(accumulate))
    left = [
        (epoch, size, [batch for i, batch in enumerate(batches) if accumulate * step + i not in skipped])
        for step, (epoch, size, batches) in enumerate(windows(accumulate))
    ]
    assert_same_weights(weights(run), plain_loop(Regression(), MASK_AND_CLIP, left, set_to_none=set_to_none))


# ---------------------------------------------------------------- epochs and fits cut short
class Impatient(Regression):
    """Ends every epoch inside its second window."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        super().on_train_batch_start(batch, batch_idx)
        return -1 if batch_idx == 4 else None


def test_an_epoch_cut_short_inside_a_window(door: str) -> None:
    strategy = STRATEGIES["mask per epoch"]
    run, applied = record(door, strategy, Impatient, accumulate_grad_batches=3, max_epochs=3)
    assert applied == [(0, 0), (1, 1), (2, 2)]
    expected = [(epoch, 3, list(loader())[:3]) for epoch in range(3)]
    assert_same_weights(weights(run), plain_loop(Regression(), strategy, expected))


class Failing(Regression):
    """Fails once, inside its second window."""

    failed = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if batch_idx == 4 and not self.failed:
            self.failed = True
            raise ZeroDivisionError
        return self.loss(batch)


def test_a_fit_after_one_that_failed_inside_a_window(door: str) -> None:
    task, callbacks = through(door, MASK_AND_CLIP, Failing)
    with pytest.raises(ZeroDivisionError):
        trainer(callbacks=callbacks, accumulate_grad_batches=3).fit(task, loader())
    assert all(parameter.requires_grad for parameter in task.parameters())
    trainer(callbacks=callbacks, accumulate_grad_batches=3).fit(task, loader())
    expected = Regression()
    plain_loop(expected, MASK_AND_CLIP, windows(3)[:1])
    assert_same_weights(weights(task), plain_loop(expected, MASK_AND_CLIP, windows(3)))


def test_a_second_trainer_starts_at_the_first_step(door: str) -> None:
    task, callbacks = through(door, MASK_AND_CLIP)
    for _ in range(2):
        trainer(callbacks=callbacks, accumulate_grad_batches=3).fit(task, loader())
    expected = Regression()
    plain_loop(expected, MASK_AND_CLIP, windows(3))
    assert_same_weights(weights(task), plain_loop(expected, MASK_AND_CLIP, windows(3)))


def test_the_same_trainer_goes_on_at_the_next_step(door: str) -> None:
    task, callbacks = through(door, MASK_AND_CLIP)
    run = trainer(callbacks=callbacks, accumulate_grad_batches=3)
    run.fit(task, loader())
    run.fit_loop.max_epochs = 2
    run.fit(task, loader())
    assert run.global_step == 6
    expected = Regression()
    plain_loop(expected, MASK_AND_CLIP, windows(3))
    second = [(1, size, batches) for _, size, batches in windows(3)]
    assert_same_weights(weights(task), plain_loop(expected, MASK_AND_CLIP, second, first_step=3))


def test_each_fit_takes_the_seed_of_its_run(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, callbacks = through(door, GradDrop(0.5))
    run = trainer(callbacks=callbacks, max_steps=1)
    run.fit(task, loader())
    assert door_of(run).gradient_engine.seed == SEED
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")  # as `seed_everything` does
    run = trainer(callbacks=callbacks, max_steps=1)
    run.fit(task, loader())
    assert door_of(run).gradient_engine.seed == 77
    monkeypatch.delenv("PL_GLOBAL_SEED")
    torch.manual_seed(78)
    run = trainer(callbacks=callbacks, max_steps=1)
    run.fit(task, loader())
    assert door_of(run).gradient_engine.seed == 78


def test_masks_leave_the_global_random_state_alone(door: str) -> None:
    before, after = torch.get_rng_state(), []
    for strategy in STRATEGIES.values():
        torch.set_rng_state(before)
        fit(door, strategy)
        after.append(torch.get_rng_state())
    torch.set_rng_state(before)
    trainer().fit(Regression(), loader(), loader(2))
    assert all(torch.equal(state, torch.get_rng_state()) for state in after)
