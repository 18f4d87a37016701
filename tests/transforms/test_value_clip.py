"""ValueClip: two-sided, and no overflow becomes the bound."""

from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import ConfigurationError, GradientEngine, Linear, TopDown, ValueClip
from tests.cases import cases
from tests.transforms.small import Small, apply, engine_for, set_gradients


def _clipped(values: list[float], transform: ValueClip, *, step: int = 0, scale: float | None = None) -> Tensor:
    model = nn.ParameterDict({"w": torch.zeros(len(values))})
    model["w"].grad = torch.tensor(values)
    apply(engine_for(model, transform), step, loss_scale=scale)
    gradient = model["w"].grad
    assert isinstance(gradient, Tensor)
    return gradient


def test_both_sides_are_bounded():
    assert _clipped([-9.0, -1.0, -0.5, -0.0, 0.5, 1.0, 9.0], ValueClip(1.0)).tolist() == [-1, -1, -0.5, 0, 0.5, 1, 1]


def test_what_is_not_finite_ends_undefined():
    clipped = _clipped([inf, -inf, nan, 2.0], ValueClip(1.0))
    assert clipped.isnan().tolist() == [True, True, True, False]
    assert clipped[3] == 1


def test_finite_gradients_are_clipped_as_by_torch():
    model, theirs = Small(), Small()
    for each in (model, theirs):
        set_gradients(each, 3)
    torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.4)
    apply(engine_for(model, ValueClip(0.4)), 0)
    for (name, parameter), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name  # type: ignore[arg-type]  # all have one


def test_the_bound_is_in_true_units():
    assert _clipped([-640.0, 16.0, 64.0, 65.0], ValueClip(1.0), scale=64.0).tolist() == [-64, 16, 64, 64]


@cases(("step", "bound"), [(0, 2.0), (5, 1.0)], ids=["first", "last"])
def test_the_bound_may_follow_training(step: int, bound: float):
    assert _clipped([-9.0, 9.0], ValueClip(Linear(2.0, 1.0)), step=step).tolist() == [-bound, bound]


def test_the_clipped_share_is_that_of_entries_beyond_the_bound_in_the_last_window():
    model = nn.ParameterDict({"w": torch.zeros(8), "empty": torch.zeros(0)})
    engine = engine_for(model, ValueClip(1.0))
    model["w"].grad = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 0.5, -0.5])
    model["empty"].grad = torch.zeros(0)
    apply(engine, 0)
    assert float(engine.statistics["clipped"]) == 3 / 8
    model["w"].grad = None
    apply(engine, 1)
    assert float(engine.statistics["clipped"]) == 0


@cases("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_stays(dtype: torch.dtype):
    model = nn.Linear(2, 2, dtype=dtype)
    set_gradients(model, 0)
    apply(engine_for(model, ValueClip(0.25)), 0)
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == dtype
    assert float(model.weight.grad.abs().max()) == 0.25


REFUSED: dict[str, tuple[Any, str]] = {
    "zero": (0, "Parameter `max_value` should be positive. Found `max_value = 0`."),
    "a negative bound": (-0.5, "Parameter `max_value` should be positive. Found `max_value = -0.5`."),
    "an undefined bound": (nan, "Parameter `max_value` should be positive. Found `max_value = nan`."),
    "a bound in words": ("0.5", "Parameter `max_value` should be a number or a schedule. Found `'0.5'`."),
    "a bound of True": (True, "Parameter `max_value` should be a number or a schedule. Found `True`."),
    "a schedule that reaches zero": (
        Linear(0.0, 1.0),
        "Parameter `max_value` should be positive. Found `max_value = Linear(0, 1, begin=0, finish=1)`.",
    ),
    "a schedule that follows depth": (
        TopDown(2.0, 1.0),
        "Parameter `max_value` should be the same at every depth. Found `max_value = TopDown(2, 1, width=0.5)`.",
    ),
}


@cases(("max_value", "message"), REFUSED.values(), ids=REFUSED)
def test_an_argument_outside_its_range_is_refused(max_value: Any, message: str):
    with pytest.raises(ConfigurationError) as refused:
        ValueClip(max_value)
    assert str(refused.value) == message


def test_a_schedule_needs_the_number_of_steps():
    with pytest.raises(ConfigurationError, match="Parameter `total_steps` should be given for `ValueClip`"):
        GradientEngine(Small(), ValueClip(Linear(1.0, 0.5)))
