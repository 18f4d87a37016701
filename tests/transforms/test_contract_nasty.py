"""The contract of all strategies on nasty gradients, on none, and under a loss scale."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.cases import Laws
from tests.nasty import LAYOUTS, laid_out
from tests.reference import stepped
from tests.transforms.contract import assert_statistics, every_row
from tests.transforms.golden import Golden
from tests.transforms.small import (
    WINDOWS,
    Small,
    Snapshot,
    apply,
    assert_equals_reference,
    assert_same_bits,
    by_formula,
    engine_for,
    layout_of,
    on_one_thread,
    run,
    set_gradients,
    snapshot,
    values_of,
    window_of,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)
law = Laws()


@every_row
def test_every_strategy_keeps_the_laws(row: Golden, subtests: pytest.Subtests):
    law.check(subtests, row)


def _nasty(kind: str, numbers: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return a gradient of one kind, made from ordinary numbers."""
    if kind == "none":
        return None
    changed = numbers.double()
    if kind == "zero":
        changed = changed * 0
    elif kind == "huge":
        changed = changed * (1e15 if dtype != torch.float16 else 2e4)  # 2e4 overflows in a few entries
    elif kind == "subnormal":
        changed = changed * torch.finfo(dtype).tiny / 4
    elif kind != "ordinary":
        changed.flatten()[len(changed.flatten()) // 2 :: 5] = float(kind)
    return changed.to(dtype)


KINDS = ["none", "zero", "ordinary", "huge", "subnormal", "inf", "-inf", "nan"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@st.composite
def nasty_models(draw: st.DrawFn) -> Small:
    """Draw a small model with nasty gradients; it has an empty, a 0-d and, at times, a tied parameter."""
    dtype = draw(st.sampled_from(DTYPES))
    model = Small(tied=draw(st.booleans())).to(dtype)
    alone = draw(st.none() | st.sampled_from([name for name, _ in model.named_parameters()]))
    for name, parameter in model.named_parameters():
        kind = draw(st.sampled_from(KINDS)) if alone in (None, name) else "none"
        numbers = by_formula(name, parameter.numel(), 1).view(parameter.shape)
        gradient = _nasty(kind, numbers, parameter.dtype)
        parameter.grad = None if gradient is None else laid_out(gradient, draw(st.sampled_from(LAYOUTS)))
    return model


EXAMPLES = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
nasty = given(model=nasty_models(), step=st.integers(0, 5))


@law
def nasty_gradients_end_as_the_reference_says(row: Golden):
    examples = 3 if row.learns or row.calibrates else 8  # of three windows each, or of one
    settings(EXAMPLES, max_examples=examples)(nasty(_assert_ends_as_the_reference_says))(row)


@pytest.mark.long
@every_row
def test_nasty_gradients_end_as_the_reference_says(row: Golden):
    examples = 20 if row.learns or row.calibrates else 50  # of several windows each
    settings(EXAMPLES, max_examples=examples)(nasty(_assert_ends_as_the_reference_says))(row)


def _assert_ends_as_the_reference_says(row: Golden, model: Small, step: int):
    engine, does = engine_for(model, row.transform), row.reference()
    nasty = {name: parameter.grad for name, parameter in model.named_parameters()}
    # what the nasty ones teach shows in the last window
    several = [(step, 1.0), (step, None), (step, 4.0)] if row.learns else [(0, 1.0), (1, None), (2, 4.0)]
    for at, ordinary in several if row.learns or row.calibrates else [(step, None)]:
        for name, parameter in model.named_parameters():
            parameter.grad = nasty[name]
        if ordinary is not None:
            set_gradients(model, at, scale=ordinary)
        before = snapshot(model)
        expected = does(values_of(model), window_of(at), layout_of(model))
        apply(engine, at)
        stepped(does)
        assert_equals_reference(model, expected)
        _assert_nothing_hidden(before, snapshot(model))
        assert_statistics(engine.statistics, finite=False)


def _assert_nothing_hidden(before: Snapshot, after: Snapshot) -> None:
    for name, gradient in after.items():
        if gradient is not None:
            overflown = before[name]
            assert overflown is not None, f"{name} got a gradient out of nowhere"
            assert not gradient[~overflown.isfinite()].isfinite().any(), f"an overflow in {name} was hidden"


@law
def parameters_without_a_gradient_stay_without(row: Golden):
    expected, model = run(row.transform, steps=[0, 2])[2], Small()
    engine = engine_for(model, row.transform)
    set_gradients(model, 0)
    apply(engine, 0)
    set_gradients(model, 2)
    missing = [name for i, (name, _) in enumerate(model.named_parameters()) if i % 3 == 0]
    for name in missing:
        model.get_parameter(name).grad = None
    apply(engine, 2)
    actual = snapshot(model)
    assert all(actual[name] is None for name in missing)
    assert any(gradient is not None for gradient in actual.values())
    assert {name for name in expected if expected[name] is None} <= {name for name in actual if actual[name] is None}


@law
def no_gradient_at_all_is_fine(row: Golden):
    model = Small()
    engine = engine_for(model, row.transform)
    if row.calibrates:  # which needs some
        set_gradients(model, 0)
        apply(engine, 0)
        model.zero_grad()
    apply(engine, 1)
    assert all(gradient is None for gradient in snapshot(model).values())
    assert_statistics(engine.statistics, finite=True)


@law
def a_loss_scale_scales_the_result_and_nothing_else(row: Golden):
    expected = run(row.transform)
    for scale in (2.0**16, 2.0**-9):
        model = Small()
        engine = engine_for(model, row.transform)
        for step in WINDOWS:
            if row.calibrates and step == 0:  # which it does without a scale
                set_gradients(model, step)
                apply(engine, step)
                continue
            set_gradients(model, step, scale=scale)
            given = snapshot(model)
            apply(engine, step, loss_scale=scale)
            scaled = {name: None if g is None else g * scale for name, g in expected[step].items()}
            if any(gradient is not None for gradient in scaled.values()):
                assert_same_bits(snapshot(model), scaled)
            else:  # left out, by a scaler that needs gradients; a clip makes NaN of infinite ones
                left = snapshot(model)
                assert [name for name in left if left[name] is None] == [name for name in given if given[name] is None]
                assert not any(gradient.isfinite().any() for gradient in left.values() if gradient is not None)
