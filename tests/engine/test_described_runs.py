"""What an engine describes is what it then does: when each tensor trains, what is skipped, rates and thresholds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lightning_sparsegrad import (
    GradientEngine,
    GradientTransform,
)
from lightning_sparsegrad.engine import Description
from lightning_sparsegrad.engine.description import SettingRow
from lightning_sparsegrad.transforms import NormClip
from tests.strategies import OVERLAYS, spec_in
from tests.tiny import _classifier, tiny_xlm_roberta

STEPS, EPOCH = 6, 3
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
MODELS = {
    "as XLM-R Large": lambda: tiny_xlm_roberta(num_hidden_layers=24, num_labels=3, **SMALL),
    "as Llama 7B": lambda: _classifier(
        "llama", num_hidden_layers=32, num_key_value_heads=2, vocab_size=50, pad_token_id=0, num_labels=3, **SMALL
    ),
}
UNKNOWN = {"sparse_mask"}  # what it drops whole is known after its calibration
QUICK = ("graddrop_cgnc", "layer_grad_drop", "sparse_unfreezing")  # a mask and a clip, layers, a schedule over depth
ENTRIES = {"element", "row"}


@dataclass
class Run:
    """What a training showed, window by window.

    Attributes:
        trained: The tensors with a gradient behind the strategy.
        computed: The tensors that required a gradient while the window was open.
        before: The gradients as the strategy was given them.
        after: The gradients that it left.
        moved: The tensors that a step changed.
    """

    trained: list[set[str]] = field(default_factory=list)
    computed: list[set[str]] = field(default_factory=list)
    before: list[dict[str, Tensor]] = field(default_factory=list)
    after: list[dict[str, Tensor]] = field(default_factory=list)
    moved: list[set[str]] = field(default_factory=list)


def run(model: nn.Module, engine: GradientEngine, scale: float = 20.0) -> Run:
    """Train a model for `STEPS` windows."""
    shown, parameters = Run(), dict(model.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    engine.attach(optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        with engine.window(step, epoch=step // EPOCH):
            shown.computed.append({name for name, tensor in parameters.items() if tensor.requires_grad})
            tokens, labels = torch.randint(5, 50, (4, 6)), torch.randint(2, (4,))
            (scale * model(input_ids=tokens, labels=labels).loss).backward()
            shown.before.append({n: t.grad.clone() for n, t in parameters.items() if t.grad is not None})
            engine.apply_()
        left = {name: tensor.grad.clone() for name, tensor in parameters.items() if tensor.grad is not None}
        shown.after.append(left)
        shown.trained.append(set(left))
        weights = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        optimizer.step()
        shown.moved.append({name for name, tensor in parameters.items() if not torch.equal(tensor, weights[name])})
    return shown


def made(overlay: str) -> GradientTransform:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(GradientTransform, "transform")
    read = parser.instantiate_classes(parser.parse_object({"transform": spec_in(overlay)}))
    return cast("GradientTransform", read.transform)


def require_trained_as_described(description: Description, shown: Run) -> None:
    for row in description.tensors:
        steps = [step for step, names in enumerate(shown.trained) if row.name in names]
        first, last = (steps[0], steps[-1]) if steps else (None, None)
        assert (row.first_step, row.last_step) == (first, last), row.name
        assert row.pauses == any(two - one > 1 for one, two in pairwise(steps)), row.name
        assert row.trained == pytest.approx(len(steps) / STEPS), row.name
        computed = sum(row.name in names for names in shown.computed)
        assert row.computed == pytest.approx(computed / STEPS), row.name
    trained = set().union(*shown.trained)
    assert {row.name for row in description.tensors if row.trained} == trained
    assert all(moved <= kept for moved, kept in zip(shown.moved, shown.trained, strict=True))


def require_memory_as_described(description: Description, shown: Run, model: nn.Module) -> None:
    sizes = {name: tensor.numel() * 4 for name, tensor in model.named_parameters()}
    held = [sum(sizes[name] for name in gradients) for gradients in shown.before]
    assert description.memory.gradients_first == held[0]
    assert description.memory.gradients_later == max(held[1:])
    optimizer = torch.optim.AdamW(model.parameters())
    for name, tensor in model.named_parameters():
        tensor.grad = torch.zeros_like(tensor) if name in set().union(*shown.trained) else None
    optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert description.memory.moments == sum(moment.numel() * moment.element_size() for moment in moments)


def settings_of(description: Description, name: str) -> Iterator[SettingRow]:
    return (row for row in description.settings if row.name == name)


def require_numbers_as_described(description: Description, engine: GradientEngine, shown: Run) -> None:
    """Look at the gradients of the last window, and of the first, for the numbers that were described."""
    members = {type(member).__name__: member for member in engine.transform.flattened()}
    if clip := next((each for each in members.values() if isinstance(each, NormClip)), None):
        statistics = engine.statistics
        rows = list(settings_of(description, "max_norm"))
        before = {key.partition("norm_before/")[2]: float(norm) for key, norm in statistics.items() if "before/" in key}
        after = {key.partition("norm_after/")[2]: float(norm) for key, norm in statistics.items() if "after/" in key}
        assert {row.component for row in rows} >= set(before)
        assert "LayerGradDrop" in members or {row.component for row in rows} == set(before)
        bounded = [row for row in rows if row.component in before and before[row.component] > row.last]
        assert bounded, f"{clip} clips something"
        for row in bounded:
            assert after[row.component] == pytest.approx(row.last, rel=1e-3)
    if "GradDrop" in members:
        for window, value in ((0, "first"), (-1, "last")):
            rates = {row.component: getattr(row, value) for row in settings_of(description, "rate")}
            given, left = shown.before[window], shown.after[window]
            assert rates.keys() - left.keys() == {name for name, rate in rates.items() if rate == 1}
            for name in rates.keys() & left.keys():
                there = given[name] != 0
                if there.sum() > 200:  # enough for a share
                    lost = (left[name] == 0)[there].float().mean()
                    assert float(lost) == pytest.approx(rates[name], abs=0.15), name
    for row in settings_of(description, "max_value"):
        assert max(float(gradient.abs().max()) for gradient in shown.after[-1].values()) == pytest.approx(row.last)
    for row in settings_of(description, "clipping"):
        weight, gradient = engine.parameters[row.component].detach(), shown.after[-1][row.component]
        if weight.ndim == 2 and "embed" not in row.component:
            assert float((gradient.norm(dim=1) / weight.norm(dim=1)).max()) <= row.last * 1.02, row.component


@pytest.mark.parametrize(
    ("overlay", "model"),
    [
        pytest.param(overlay, model, marks=() if overlay in QUICK else pytest.mark.long)
        for overlay in sorted(OVERLAYS.keys() - UNKNOWN)
        for model in MODELS
        if (overlay, model) != ("trainable_rows", "as Llama 7B")  # whose embeddings have another name
    ],
)
def test_a_run_does_what_was_described(overlay: str, model: str) -> None:
    torch.manual_seed(0)
    network = MODELS[model]().train()
    engine = GradientEngine(network, made(overlay), total_steps=STEPS, seed=3)
    description = engine.describe(steps_per_epoch=EPOCH)
    shown = run(network, engine)
    assert description.steps == description.asked == STEPS
    require_trained_as_described(description, shown)
    require_numbers_as_described(description, engine, shown)
    require_memory_as_described(description, shown, network)
    layers = ["embeddings", *(f"block {index}" for index in range(24 if "XLM" in model else 32)), "head"]
    assert list(description.layers) == layers
