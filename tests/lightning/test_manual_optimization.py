"""Manual optimization: only the user knows which step follows, so a call applies the transform; no call is an error."""

from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW

from lightning_sparsegrad import GradientEngine, GradientTransformCallback
from tests.cases import cases

from .tasks import (
    BATCHES,
    DOORS,
    SEED,
    STRATEGIES,
    Batch,
    Regression,
    assert_same_weights,
    door_of,
    fit,
    loader,
    plain_loop,
    weights,
    windows,
)

MASK_AND_CLIP = STRATEGIES["mask and clip"]

pytestmark = [
    pytest.mark.parametrize("door", DOORS),
    pytest.mark.filterwarnings("ignore:Gradients that are dropped whole are computed nevertheless"),
]


class Manual(Regression):
    """Steps by itself, every three micro-batches and at the end of the epoch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch) / 3)
        if batch_idx % 3 == 2 or batch_idx == BATCHES - 1:
            self.apply_()
            self.step()

    def apply_(self) -> None:
        door = door_of(self.trainer)
        if isinstance(door, GradientTransformCallback):
            door.apply_gradient_transform_(self.trainer, self)
        else:
            door.apply_gradient_transform_()

    def step(self) -> None:
        optimizer: Any = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()


class Forgetful(Manual):
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.step()


class Twice(Manual):
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.apply_()
        self.apply_()


class TwiceOverBatches(Manual):
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.apply_()


class Early(Manual):
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.apply_()
        self.manual_backward(self.loss(batch))
        self.step()


class ForgetfulTheSecondTime(Manual):
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.apply_()
        self.step()
        self.manual_backward(self.loss(batch))
        self.step()


class ForgetfulBesideLightning(Manual):
    """Goes round `manual_backward`, which the hook would have seen."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.apply_()
        self.step()
        torch.autograd.backward(self.loss(batch))
        self.step()


class TwoSteps(Manual):
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        for _ in range(2):
            self.manual_backward(self.loss(batch))
            self.apply_()
            self.step()


class TwoOptimizers(Manual):
    """One backward pass for the blocks, trained by one optimizer, and the head, trained by another."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        self.apply_()
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [AdamW(self.network.blocks.parameters(), lr=0.01), SGD(self.network.head.parameters(), lr=0.1)]


class TwiceForOneBackward(TwoOptimizers):
    """Calls before the step of each optimizer, which would mask what the second uses twice."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            self.apply_()
            optimizer.step()


@cases("strategy", STRATEGIES)
def test_weights_are_those_of_a_plain_loop(door: str, strategy: str) -> None:
    run = fit(door, STRATEGIES[strategy], Manual, max_epochs=2)
    assert run.global_step == 6
    assert_same_weights(weights(run), plain_loop(Regression(), STRATEGIES[strategy], windows(3, 3)))


def test_two_steps_in_one_training_step_are_two_windows(door: str) -> None:
    run = fit(door, MASK_AND_CLIP, TwoSteps)
    twice = [window for window in windows(1) for _ in range(2)]
    assert_same_weights(weights(run), plain_loop(Regression(), MASK_AND_CLIP, twice))


def test_two_optimizers_may_share_a_window(door: str) -> None:
    run = fit(door, MASK_AND_CLIP, TwoOptimizers)
    task = TwoOptimizers()
    engine = GradientEngine(task, MASK_AND_CLIP, seed=SEED)
    optimizers = task.configure_optimizers()
    for index, batch in enumerate(loader()):
        with engine.window(2 * index):  # Lightning counts the steps of both
            torch.autograd.backward(task.loss(batch))
            engine.apply_()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert_same_weights(weights(run), weights(task))


@cases(
    ("kind", "message"),
    [
        (Forgetful, r"call `.+\.apply_gradient_transform_\(\)` after the last `manual_backward` .* no call at step 0"),
        (Early, "after the last `manual_backward` .* Found no call at step 0"),
        (ForgetfulTheSecondTime, "before each `optimizer.step.*Found no call at step 1"),
        (ForgetfulBesideLightning, "before each `optimizer.step.*Found no call at step 1"),
        (Twice, "should be called once after the last `manual_backward`.* at step 0"),
        (TwiceOverBatches, "should be called once. Found two calls at step 0"),
        (TwiceForOneBackward, "should be called once after the last `manual_backward`.* at step 1"),
    ],
)
def test_a_call_too_few_or_too_many_is_an_error(door: str, kind: type[Regression], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        fit(door, MASK_AND_CLIP, kind)


class Toggling(Manual):
    """Trains its head and its blocks by optimizers of their own, as GANs do."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.loss(batch))
            self.apply_()
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return SGD(self.network.blocks.parameters(), lr=0.1), SGD(self.network.head.parameters(), lr=0.1)


def test_toggled_optimizers_find_every_requires_grad_as_they_left_it(door: str) -> None:
    with pytest.warns(UserWarning, match="under manual optimization"):
        task = fit(door, STRATEGIES["tensors"], Toggling).lightning_module
    assert all(parameter.requires_grad for parameter in task.parameters())
