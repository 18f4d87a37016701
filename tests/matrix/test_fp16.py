"""fp16 with the gradient scaler: true units, and overflows skipped exactly as without us, for every strategy."""

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler

from lightning_sparsegrad import Chain, GradDrop, GradientTransform
from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.transforms.base import Gradients, Window
from tests.cases import cases
from tests.lightning.tasks import Weights, assert_same_weights, door_of, weights
from tests.transforms.golden import Golden
from tests.transforms.golden.grad_drop import drop_entries
from tests.transforms.small import (
    STEPS_PER_EPOCH,
    TOTAL_STEPS,
    Small,
    engine_for,
    flat,
    layout_of,
    set_gradients,
    values_of,
    window_of,
)

from .task import (
    ROWS,
    SCALED,
    Adaptive,
    Fused,
    Task,
    Witness,
    assert_follows_reference,
    each_door,
    every_scaled_row,
    fit,
    fit_task,
    in_plain_loop,
    plan,
    rows_that_know_when,
)

HALF = partial(torch.autocast, "cpu", torch.float16, cache_enabled=False)

each_optimizer = pytest.mark.parametrize(
    "kind", [Adaptive, pytest.param(Fused, marks=pytest.mark.long)], ids=["foreach", "fused"]
)


def half(scaler: GradScaler) -> dict[str, Any]:
    """Return what makes a Trainer use float16 on the CPU."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def growing() -> GradScaler:
    """Return a scaler whose scale doubles every second step."""
    return GradScaler("cpu", 16.0, growth_interval=2)


# ---------------------------------------------------------------- true units
@every_scaled_row
@pytest.mark.parametrize(
    ("door", "kind"), [("module", Adaptive), pytest.param("callback", Fused, marks=pytest.mark.long)]
)
def test_weights_are_those_of_a_plain_loop_with_a_scaler(door: str, row: Golden, kind: type[Task]) -> None:
    scaler, witness = growing(), Witness()
    run = fit(door, row, kind, callbacks=[witness], **half(scaler))
    expected = in_plain_loop(row, plan(), kind, autocast=HALF, scaler=growing())
    assert_same_weights(weights(run), expected)
    scales = [16.0, 16.0, 32.0, 32.0, 64.0, 64.0]
    assert row.leaves_out or [window.scale for window in witness.seen] == scales
    assert_follows_reference(row, witness.seen)


# ---------------------------------------------------------------- overflow
class Steps(Callback):
    """Writes down the loss scale and the weights after every optimizer step."""

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler
        self.scales: list[float] = []
        self.weights: list[Weights] = [weights(Task())]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > len(self.scales):
            self.scales.append(self.scaler.get_scale())
            self.weights.append(weights(pl_module))

    @property
    def moved(self) -> list[bool]:
        return [any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairwise(self.weights)]


def shrinking() -> GradScaler:
    """Return a scaler whose first two scales no half-precision backward pass survives."""
    return GradScaler("cpu", 2.0**36, backoff_factor=2.0**-16)


@rows_that_know_when("door kind", ("callback", Fused), ("module", Adaptive), rows=SCALED)
def test_overflow_skips_the_steps_it_skips_without_us(door: str, row: Golden, kind: type[Task]) -> None:
    scaler, alone = shrinking(), shrinking()
    actual, expected, witness = Steps(scaler), Steps(alone), Witness()
    run = fit(door, row, kind, callbacks=[witness, actual], **half(scaler))
    fit_task(kind(), callbacks=[expected], **half(alone))
    if not row.leaves_out:  # which halves the scale as well
        assert actual.scales == expected.scales == [2.0**20] + [2.0**4] * 5
        assert actual.moved == expected.moved == [False, False, True, True, True, True]
    assert_follows_reference(row, witness.seen)
    # the steps that were skipped count: masks and schedules go on where a run that skipped none would be
    assert_same_weights(weights(run), in_plain_loop(row, plan(), kind, autocast=HALF, scaler=shrinking()))


class Spiked(Task):
    """One entry of the embeddings' gradient overflows in the third step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embeddings.weight.register_hook(self.spike)  # type: ignore[no-untyped-call]

    def spike(self, gradient: Tensor) -> Tensor:
        spiked = gradient.clone()
        spiked[3, 1] = torch.inf
        return spiked if self.trainer.global_step == 2 else gradient


@every_scaled_row
@pytest.mark.parametrize(
    ("door", "kind"), [("module", Fused), pytest.param("callback", Adaptive, marks=pytest.mark.long)]
)
def test_the_overflow_of_one_entry_counts_unless_its_tensor_is_dropped_whole(
    door: str, row: Golden, kind: type[Task]
) -> None:
    scaler = GradScaler("cpu", 16.0)
    actual = Steps(scaler)
    fit(door, row, type("Task", (Spiked, kind), {}), callbacks=[actual], **half(scaler))
    model = Small()
    set_gradients(model, 2)
    counts = row.reference()(values_of(model), window_of(2), layout_of(model))["embeddings.weight"] is not None
    until = 3 if row.leaves_out else TOTAL_STEPS  # later windows may be left out
    assert actual.moved[:until] == [True, True, not counts, True, True, True][:until]
    assert actual.scales[:until] == ([16.0] * 2 + [8.0 if counts else 16.0] * 4)[:until]


def learnt(row: Golden, kind: type[Task], *, overflows: bool) -> list[Any]:
    """Return what a strategy has learnt after each step, before which a window of the same step may overflow."""
    model, states = Small(), []
    optimizer, scaler = kind.optimizer(model.parameters()), GradScaler("cpu", 16.0)
    engine = engine_for(model, row.transform)
    engine.attach(optimizer)
    for step in range(TOTAL_STEPS):
        for overflow in (True, False) if overflows else (False,):
            scale = scaler.scale(torch.ones(()))
            set_gradients(model, step, scale=float(scale))
            if overflow:
                model.norm.weight.grad[1] = torch.inf  # type: ignore[index]
            with engine.window(step, epoch=step // STEPS_PER_EPOCH):
                engine.apply_(loss_scale=scale)
            scaler.step(optimizer)
            scaler.update()
        states.append(flat(engine.transform.state_dict()))
    return states


@cases("row", [row for row in ROWS if row.learns])
@cases("kind", [Task, Adaptive, Fused])
def test_windows_that_overflow_teach_nothing(row: Golden, kind: type[Task]) -> None:
    expected = learnt(row, kind, overflows=False)
    assert learnt(row, kind, overflows=True) == expected
    assert expected[0] != expected[-1]


class Counting(GradientTransform):
    """Has a state: the steps in which it was applied."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self.steps.append(window.step)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}


@each_door
@each_optimizer
def test_a_state_goes_on_by_one_in_a_step_that_is_skipped(door: str, kind: type[Task]) -> None:
    chain = Chain({"count": Counting(), "mask": GradDrop(0.5)})
    run = fit(door, Golden(chain, (), does=drop_entries(0.5)), kind, **half(shrinking()))
    assert door_of(run).gradient_engine.transform.state_dict()["count"] == {"steps": list(range(TOTAL_STEPS))}
