"""GlobalNormClip: the same as torch's own `clip_grad_norm_`, in true gradient units."""

from math import inf, nan
from typing import Any

import pytest
import torch
from torch import nn

from lightning_sparsegrad import (
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradientEngine,
    GradientTransform,
    Linear,
    TopDown,
)
from tests.cases import cases
from tests.tiny import tiny_gpt2
from tests.transforms.small import Small, apply, assert_same_bits, engine_for, set_gradients, snapshot


@cases("norm_type", [2.0, inf], ids=str)
@cases("max_norm", [1e-3, 1.0, 1e5], ids=str)
@cases("bad", [None, inf, -inf, nan], ids=["finite", "inf", "-inf", "nan"])
@cases(
    "strategy",
    [GlobalNormClip, lambda norm, norm_type: ComponentNormClip(norm, components={"*": "all"}, norm_type=norm_type)],
    ids=["GlobalNormClip", "ComponentNormClip of one component"],
)
def test_it_equals_torch(strategy: Any, max_norm: float, norm_type: float, bad: float | None):
    model, theirs = Small(), Small()
    for each in (model, theirs):
        set_gradients(each, 1)
        each.empty.grad = None  # torch has no largest entry of an empty tensor
        if bad is not None:
            assert each.head.bias.grad is not None
            each.head.bias.grad[3] = bad
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type=norm_type)
    engine = engine_for(model, strategy(max_norm, norm_type=norm_type))
    apply(engine, 1)
    assert float(engine.statistics["norm_before/all"]) == pytest.approx(float(norm), nan_ok=True)
    for (name, parameter), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-6, atol=0, equal_nan=True, msg=name)


@cases(
    ("strategy", "alone"),
    [
        (GlobalNormClip, False),
        (lambda max_norm, **norm: ComponentNormClip(max_norm, components="tensor", **norm), True),
    ],
    ids=["GlobalNormClip", "ComponentNormClip by tensor"],
)
def test_with_torchs_own_norm_it_equals_torch_to_the_last_bit(strategy: Any, alone: bool):
    model, blockwise, theirs = (nn.Linear(700, 900) for _ in range(3))
    for each in (model, blockwise, theirs):
        set_gradients(each, 1)
    for parameters in theirs.parameters() if alone else [list(theirs.parameters())]:
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    for each, norm in ((model, {"norm": "torch"}), (blockwise, {})):
        apply(engine_for(each, strategy(0.5, **norm)), 1)
    assert_same_bits(snapshot(model), snapshot(theirs))
    for (name, parameter), other in zip(blockwise.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=2e-3, atol=0, msg=name)
    assert not torch.equal(blockwise.weight.grad, theirs.weight.grad)  # type: ignore[arg-type]  # or nothing is tested


def test_it_equals_torch_on_a_model_with_tied_weights():
    model, theirs = tiny_gpt2(), tiny_gpt2()
    for each in (model, theirs):
        set_gradients(each, 0)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    apply(engine_for(model, GlobalNormClip(1.0)), 0)
    for (name, parameter), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-6, atol=0, msg=name)


def test_a_gradient_within_the_threshold_keeps_its_bits():
    model = Small()
    set_gradients(model, 0)
    before = snapshot(model)
    engine = engine_for(model, GlobalNormClip(1e3))
    apply(engine, 0)
    assert_same_bits(snapshot(model), before)
    assert float(engine.statistics["clipped"]) == 0


def test_the_norm_after_is_the_threshold():
    model = Small()
    set_gradients(model, 0)
    engine = engine_for(model, GlobalNormClip(0.5))
    apply(engine, 0)
    left = torch.cat([gradient.flatten() for gradient in snapshot(model).values() if gradient is not None])
    assert float(left.double().norm()) == pytest.approx(0.5, rel=1e-6)
    assert float(engine.statistics["norm_after/all"]) == pytest.approx(0.5, rel=1e-6)
    assert float(engine.statistics["clipped"]) == 1


def test_the_threshold_is_in_true_units_down_to_the_constant_in_the_denominator():
    model = nn.Linear(1, 1, bias=False)
    engine = engine_for(model, GlobalNormClip(1e-6))
    model.weight.grad = torch.full((1, 1), 1e-6 * 2.0**16)  # at this norm the 1e-6 halves the gradient
    apply(engine, 0, loss_scale=2.0**16)
    assert float(model.weight.grad) == pytest.approx(0.5e-6 * 2.0**16, rel=1e-5)
    assert float(engine.statistics["norm_before/all"]) == pytest.approx(1e-6, rel=1e-5)


@cases(("step", "expected"), [(0, 1.0), (5, 0.2)], ids=["first", "last"])
def test_the_threshold_may_follow_training(step: int, expected: float):
    model = Small()
    set_gradients(model, 0)
    engine = engine_for(model, GlobalNormClip(Linear(1.0, 0.2)))
    apply(engine, step)
    assert float(engine.statistics["norm_after/all"]) == pytest.approx(expected, rel=1e-5)


REFUSED: dict[str, tuple[Any, str]] = {
    "zero": (0.0, "Parameter `max_norm` should be positive. Found `max_norm = 0.0`."),
    "a negative norm": (-3, "Parameter `max_norm` should be positive. Found `max_norm = -3`."),
    "an undefined norm": (nan, "Parameter `max_norm` should be positive. Found `max_norm = nan`."),
    "a norm in words": ("inf", "Parameter `max_norm` should be a number or a schedule. Found `'inf'`."),
    "a norm beyond all floats": (
        10**400,
        f"Parameter `max_norm` should be a number or a schedule. Found `{10**400}`.",
    ),
    "a norm of True": (True, "Parameter `max_norm` should be a number or a schedule. Found `True`."),
    "a schedule that follows depth": (
        TopDown(2.0, 1.0),
        "Parameter `max_norm` should be the same at every depth. Found `max_norm = TopDown(2, 1, width=0.5)`.",
    ),
}


@cases(("max_norm", "message"), REFUSED.values(), ids=REFUSED)
def test_an_argument_outside_its_range_is_refused(max_norm: Any, message: str):
    with pytest.raises(ConfigurationError) as refused:
        GlobalNormClip(max_norm)
    assert str(refused.value) == message


def test_another_norm_is_refused():
    with pytest.raises(ConfigurationError, match=r"`norm_type` should be 2.0 or inf\. Found `norm_type = 3`\."):
        GlobalNormClip(1.0, norm_type=3)


@cases("strategy", [GlobalNormClip, ComponentNormClip])
def test_an_unknown_way_to_compute_norms_is_refused(strategy: Any):
    with pytest.raises(ConfigurationError) as refused:
        strategy(1.0, norm="foreach")
    assert str(refused.value) == "Parameter `norm` should be 'blockwise' or 'torch'. Found `norm = 'foreach'`."


def test_a_schedule_needs_the_number_of_steps():
    transform: GradientTransform = GlobalNormClip(Linear(1.0, 0.5))
    with pytest.raises(ConfigurationError, match="Parameter `total_steps` should be given for `GlobalNormClip`"):
        GradientEngine(Small(), transform)
