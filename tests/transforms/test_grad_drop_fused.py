"""GradDrop through its compiled kernel: the same bits, and only where it pays."""

import pytest
import torch
from torch import nn

from lightning_sparsegrad import Constant, GradDrop, GradientEngine, Linear
from lightning_sparsegrad.functional import _fused as fused
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.masks import _entries
from tests.cases import cases
from tests.nasty import assert_same_bits
from tests.transforms.small import apply, fill_gradients

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # of the compiler's own
    pytest.mark.timeout(600),  # a first compilation includes precompiling torch's headers
]


def masked(steps: int, *, rate: float | Schedule, rescale: bool, through: bool) -> list[torch.Tensor]:
    model = nn.ModuleList([nn.Linear(200, 100), nn.Linear(100, 3), nn.Embedding(5000, 4)])
    engine = GradientEngine(model, GradDrop(rate, rescale=rescale, fused=through), total_steps=steps, seed=3)
    results = []
    for step in range(steps):
        fill_gradients(model)
        apply(engine, step)
        results += [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return results


@cases("rescale", [False, True], ids=["plain", "rescaled"])
@cases("rate", [Constant(0.3), Linear(0.9, 0.1)], ids=str)
def test_the_kernel_changes_no_bit_and_is_compiled_once(monkeypatch, rate, rescale):
    def refuse(error: Exception) -> None:
        raise AssertionError(error)

    monkeypatch.setattr(fused, "_warn", refuse)
    compiled = masked(5, rate=rate, rescale=rescale, through=True)
    assert_same_bits(compiled, masked(5, rate=rate, rescale=rescale, through=False))
    assert len(compiled) == 5 * 5


def test_a_kernel_is_compiled_when_the_run_is_long_enough_to_pay_for_it(monkeypatch):
    model = nn.Linear(100, 100, bias=False)
    monkeypatch.setattr(_entries, "_WORTH_COMPILING", 30_000)
    asked: list[int] = []

    def words(tensor: torch.Tensor, start: int, key: int, threshold: int) -> None:
        asked.append(step)

    monkeypatch.setattr("lightning_sparsegrad.functional.masking.fused_words", words)
    engine = GradientEngine(model, GradDrop(0.5))
    for step in range(6):
        fill_gradients(model)
        apply(engine, step)
    assert asked == [3, 4, 5]  # from 30,000 entries on


def test_a_kernel_is_used_at_once_if_any_gradient_is_on_an_accelerator(monkeypatch):
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    monkeypatch.setattr(_entries, "is_for", lambda tensor: tensor is model[1].weight.grad)
    asked: list[int] = []
    monkeypatch.setattr(_entries, "mask_entries_", lambda *_, fused, **__: asked.append(fused))
    engine = GradientEngine(model, GradDrop(0.5))
    fill_gradients(model)
    apply(engine, 0)
    assert asked == [True]
