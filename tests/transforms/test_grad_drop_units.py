"""GradDrop: whole tensors and slices of them, and how an entry is dropped."""

from typing import get_args

import pytest
import torch
from torch import nn

from lightning_sparsegrad import GradDrop
from lightning_sparsegrad.transforms.masks.grad_drop import Granularity
from tests.cases import cases
from tests.tiny import tiny_gpt2
from tests.transforms.grad_drop_cases import engine_of, kept_in
from tests.transforms.small import Small, apply, bits, engine_for, fill_gradients, on_one_thread, set_gradients, trained

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


def test_a_fused_slice_is_zeroed_and_the_tensor_is_dropped_whole_only_with_all_its_slices():
    model = tiny_gpt2()
    engine = engine_of(model, rate=0.5, granularity="component")
    seen: set[object] = set()
    for step in range(12):
        kept_in(engine, model, step)
        for name, parameter in model.named_parameters():
            if "attn.c_attn" not in name:
                assert parameter.grad is None or bool((parameter.grad == 1).all()), name
                continue
            if parameter.grad is None:
                seen.add("whole")
                continue
            parts = parameter.grad.chunk(3, dim=-1)
            assert all(bool((part == part.flatten()[0]).all()) for part in parts), name
            pattern = tuple(int(part.flatten()[0]) for part in parts)
            assert any(pattern), f"{name} was dropped in all its parts, but not whole"
            seen.add(pattern)
    assert seen == {"whole", *[(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1) if a or b or c]}


def test_query_key_and_value_of_a_fused_projection_are_dropped_independently_but_weight_by_weight():
    model = tiny_gpt2()
    engine = engine_of(model, rate=0.5, granularity="component", components="tensor")
    for step in range(5):
        kept_in(engine, model, step)
        assert all(p.grad is None or bool((p.grad == 1).all()) for p in model.parameters())
        assert 0 < len(trained(model)) < len(list(model.parameters()))


@cases("granularity", ["tensor", "component"])
def test_a_draw_that_would_train_nothing_is_drawn_again(granularity: Granularity):
    model = nn.Linear(2, 2)
    engine = engine_of(model, rate=0.95, granularity=granularity)
    kept = []
    for step in range(100):
        kept_in(engine, model, step)
        kept.append(frozenset(trained(model)))
    assert frozenset() not in kept
    assert {frozenset({"weight"}), frozenset({"bias"})} <= set(kept)


def test_a_draw_that_would_train_only_what_is_frozen_is_drawn_again():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    engine = engine_of(model, rate=0.9, granularity="tensor")
    for step in range(20):
        model.weight.grad = torch.ones(2, 2)
        apply(engine, step)
        assert model.weight.grad is not None


@cases("granularity", get_args(Granularity))
def test_a_rate_of_one_drops_every_unit(granularity: Granularity):
    model = nn.Linear(2, 2)
    engine = engine_of(model, rate=1.0, granularity=granularity)
    fill_gradients(model)
    with engine.window(0):
        engine.apply_()
    assert model.weight.grad is None
    assert model.bias.grad is None
    assert float(engine.statistics["kept"]) == 0


def test_a_dropped_entry_is_multiplied_so_that_an_overflow_stays_visible():
    model = nn.Linear(100, 10, bias=False)
    engine = engine_of(model, rate=0.5)
    kept = kept_in(engine, model)
    fill_gradients(model, float("inf"))
    apply(engine, 0)
    assert model.weight.grad is not None
    left = model.weight.grad.flatten()
    assert bool(left[kept].isposinf().all())
    assert bool(left[~kept].isnan().all())


def test_a_dropped_entry_does_not_depend_on_how_the_gradient_lies_in_memory():
    model = Small()
    engine = engine_for(model, GradDrop(0.5))
    masks = []
    for transposed in (False, True):
        set_gradients(model, 0)
        weight = model.get_parameter("blocks.0.output.weight")
        assert weight.grad is not None
        if transposed:
            weight.grad = weight.grad.t().contiguous().t()
            assert not weight.grad.is_contiguous()
        apply(engine, 0)
        masks.append(bits(weight.grad))
    assert torch.equal(*masks)
