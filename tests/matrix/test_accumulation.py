"""Gradient accumulation: k micro-batches equal one big batch, for every strategy, wherever a window ends."""

from typing import Any

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import LBFGS
from torch.utils.data import DataLoader

from lightning_sparsegrad import Chain, ConfigurationError
from tests.cases import Laws
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
    knows_when,
    micro_batches,
    plan,
    rows_that_know_when,
)

ends = Laws()


def goes_by_the_plan(row: Golden) -> bool:
    """Whether a strategy depends on where training stands in its plan; one that learns counts its own steps."""
    return knows_when(row) and (isinstance(row.transform, Chain) or not row.learns)


LENGTH_NEEDED = [row for row in GOLDEN if row.transform.needs_total_steps]


# ---------------------------------------------------------------- one big batch
@every_row
@each_door
def test_micro_batches_equal_one_big_batch(door: str, row: Golden) -> None:
    witness, expected = Witness(), by_reference(row, plan())
    run = fit(door, row, callbacks=[witness])
    assert_close(weights(run), expected)
    assert_follows_reference(row, witness.seen)
    assert_same_weights(weights(run), in_plain_loop(row, plan()))


@pytest.mark.long
@every_row
def test_many_tensors_at_once_give_the_bits_of_a_plain_loop(row: Golden) -> None:
    assert_same_weights(weights(fit("callback", row, Adaptive)), in_plain_loop(row, plan(), Adaptive))


# ---------------------------------------------------------------- where windows end
@rows_that_know_when("door", ["module"], ["callback"], quick=goes_by_the_plan)
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`", "ignore:train_dataloader yielded None")
def test_windows_end_where_they_should(door: str, row: Golden, subtests: pytest.Subtests) -> None:
    ends.check(subtests, door, row)


@ends
def the_factor_changes_between_epochs(door: str, row: Golden) -> None:
    schedule = GradientAccumulationScheduler({0: 3, 1: 1, 2: 5})
    run = fit(door, row, accumulate_grad_batches=1, callbacks=[schedule])
    assert_close(weights(run), by_reference(row, plan(3, 1, 5)))


@ends
def a_stream_has_no_length(door: str, row: Golden) -> None:
    data, steps = DataLoader(Stream(), batch_size=SIZE), len(plan())
    run = fit(door, row, data=data, max_steps=steps, max_epochs=-1)
    assert_close(weights(run), by_reference(row, plan()))


@ends
def a_few_batches_are_overfitted_or_an_epoch_is_limited_to_them(door: str, row: Golden) -> None:
    expected = by_reference(row, plan(batches=micro_batches()[:4]))
    assert_close(weights(fit(door, row, overfit_batches=4)), expected)
    assert_close(weights(fit(door, row, limit_train_batches=4)), expected)


@ends
def max_steps_ends_inside_an_epoch(door: str, row: Golden) -> None:
    run = fit(door, row, max_steps=5, max_epochs=-1)
    assert run.global_step == 5
    assert_close(weights(run), by_reference(row, plan()[:5]))


@each_door
def test_a_schedule_over_a_stream_without_an_end_is_refused(door: str) -> None:
    for row in LENGTH_NEEDED:
        with pytest.raises(ConfigurationError, match=r"`total_steps` should be given for `\w+` with a schedule"):
            fit(door, row, data=DataLoader(Stream(), batch_size=SIZE))


# ---------------------------------------------------------------- micro-batches without a loss
class Skipping(Task):
    """Returns no loss for some micro-batches of an epoch."""

    skipped: tuple[int, ...] = ()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        return None if batch_idx in self.skipped else super().training_step(batch, batch_idx)


@ends
def micro_batches_have_no_loss(door: str, row: Golden) -> None:
    for skipped in ((1,), (2,), (0, 4)):  # an inner one, a closing one, the first and the last
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


@ends
def a_loader_without_a_closing_batch_loses_the_window(door: str, row: Golden) -> None:
    """Lightning takes no step then, and begins the next window with empty gradients."""
    batches = [*micro_batches(), *micro_batches()[:1]]
    run = fit(door, row, data=Gaps([*batches[:2], None, *batches[3:]]), max_steps=3, max_epochs=-1)
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
