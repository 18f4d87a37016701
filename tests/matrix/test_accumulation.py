"""Gradient accumulation: k micro-batches equal one big batch, for every strategy, wherever a window ends."""

from typing import Any

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import LBFGS
from torch.utils.data import DataLoader

from lightning_sparsegrad import ConfigurationError
from tests.lightning.tasks import assert_same_weights, weights
from tests.transforms.golden import GOLDEN, Golden

from .task import (
    ACCUMULATE,
    EPOCHS,
    SIZE,
    Adaptive,
    Stream,
    Task,
    Witness,
    assert_close,
    assert_follows_reference,
    by_reference,
    each_door,
    every_row,
    fit,
    in_plain_loop,
    micro_batches,
    plan,
)

LENGTH_NEEDED = [row for row in GOLDEN if row.transform.needs_total_steps]


# ---------------------------------------------------------------- one big batch
@every_row
@each_door
def test_micro_batches_equal_one_big_batch(door: str, row: Golden) -> None:
    witness = Witness()
    run = fit(door, row, callbacks=[witness])
    assert_close(weights(run), by_reference(row, plan()))
    assert_follows_reference(row, witness.seen)


@every_row
def test_micro_batches_equal_one_big_batch_in_a_plain_loop(row: Golden) -> None:
    assert_close(in_plain_loop(row, plan()), by_reference(row, plan()))


@every_row
@each_door
def test_a_trainer_gives_the_bits_of_a_plain_loop(door: str, row: Golden) -> None:
    assert_same_weights(weights(fit(door, row, Adaptive)), in_plain_loop(row, plan(), Adaptive))


# ---------------------------------------------------------------- where windows end
@every_row
@each_door
def test_the_factor_changes_between_epochs(door: str, row: Golden) -> None:
    schedule = GradientAccumulationScheduler({0: 3, 1: 1, 2: 5})
    run = fit(door, row, accumulate_grad_batches=1, callbacks=[schedule])
    assert_close(weights(run), by_reference(row, plan(3, 1, 5)))


@every_row
def test_a_stream_of_unknown_length(row: Golden) -> None:
    data, steps = DataLoader(Stream(), batch_size=SIZE), len(plan())
    run = fit("module", row, data=data, max_steps=steps, max_epochs=-1)
    assert_close(weights(run), by_reference(row, plan()))


@pytest.mark.parametrize("row", LENGTH_NEEDED, ids=str)
@each_door
def test_a_schedule_over_a_stream_without_an_end_is_refused(door: str, row: Golden) -> None:
    with pytest.raises(ConfigurationError, match=r"`total_steps` should be given for `\w+` with a schedule"):
        fit(door, row, data=DataLoader(Stream(), batch_size=SIZE))


@every_row
def test_overfitting_a_few_batches(row: Golden) -> None:
    run = fit("callback", row, overfit_batches=4)
    assert_close(weights(run), by_reference(row, plan(batches=micro_batches()[:4])))


@every_row
def test_max_steps_ends_inside_an_epoch(row: Golden) -> None:
    run = fit("module", row, max_steps=5, max_epochs=-1)
    assert run.global_step == 5
    assert_close(weights(run), by_reference(row, plan()[:5]))


@every_row
def test_a_limit_ends_the_epoch_inside_a_window(row: Golden) -> None:
    run = fit("callback", row, limit_train_batches=4)
    assert_close(weights(run), by_reference(row, plan(batches=micro_batches()[:4])))


# ---------------------------------------------------------------- micro-batches without a loss
class Skipping(Task):
    """Returns no loss for some micro-batches of an epoch."""

    skipped: tuple[int, ...] = ()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        return None if batch_idx in self.skipped else super().training_step(batch, batch_idx)


@every_row
@each_door
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("skipped", [(1,), (2,), (0, 4)], ids=["inner", "closing", "first and last"])
def test_micro_batches_without_a_loss(door: str, row: Golden, skipped: tuple[int, ...]) -> None:
    run = fit(door, row, type("Partial", (Skipping,), {"skipped": skipped}))
    batches = micro_batches()
    lost = {id(batches[index]) for index in skipped}
    left = [
        (epoch, size, [batch for batch in window if id(batch) not in lost])
        for epoch, size, window in plan(batches=batches)
    ]
    assert_close(weights(run), by_reference(row, left))


class Gaps(list[Any]):
    """A loader that has nothing to give now and then; a plain list would be several loaders."""


@every_row
@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_a_loader_without_a_closing_batch_loses_the_window(row: Golden) -> None:
    """Lightning takes no step then, and begins the next window with empty gradients."""
    batches = [*micro_batches(), *micro_batches()[:1]]
    run = fit("module", row, data=Gaps([*batches[:2], None, *batches[3:]]), max_steps=3, max_epochs=-1)
    expected = [(epoch, ACCUMULATE, batches[3:]) for epoch in range(EPOCHS)]
    assert_close(weights(run), by_reference(row, expected))


# ---------------------------------------------------------------- what computes several gradients per step
class Quasi(Task):
    def configure_optimizers(self) -> Any:
        return LBFGS(self.parameters())


@each_door
def test_lbfgs_is_refused(door: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`optimizer` should compute one gradient per step. Found `LBFGS`"):
        fit(door, GOLDEN[1], Quasi)
