"""Gradients that are infinite or undefined: each policy, and no effect on later windows."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    HeadOnly,
    Identity,
    ValueClip,
)
from lightning_sparsegrad.engine._nonfinite import NonFinite
from tests.cases import cases
from tests.engine.helpers import OPTIMIZERS, weights
from tests.transforms.contract import every_row
from tests.transforms.golden import Golden
from tests.transforms.small import SEED, STEPS_PER_EPOCH, TOTAL_STEPS, Small, assert_same_bits, set_gradients, snapshot

BAD = [float("inf"), -float("inf"), float("nan")]
CHAIN = Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.5)})


def engine_of(model: nn.Module, transform: GradientTransform, policy: NonFinite) -> GradientEngine:
    return GradientEngine(model, transform, total_steps=TOTAL_STEPS, seed=SEED, nonfinite=policy)


def spoil(model: nn.Module, name: str, value: float) -> None:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    gradient.view(-1)[-1] = value


def apply(engine: GradientEngine, step: int, **arguments: Any) -> None:
    with engine.window(step, epoch=step // STEPS_PER_EPOCH):
        engine.apply_(**arguments)


def train(
    transform: GradientTransform,
    policy: NonFinite,
    *,
    spoiled: int | None = None,
    without: int | None = None,
    kind: str = "AdamW",
) -> dict[str, Tensor]:
    """Train with gradients of the formula; those of one step are spoiled, or one step is skipped."""
    model = Small()
    engine, optimizer = engine_of(model, transform, policy), OPTIMIZERS[kind](model.parameters())
    engine.attach(optimizer)
    for step in range(TOTAL_STEPS):
        if step == without:
            continue
        set_gradients(model, step)
        if step == spoiled:
            for name in ("embeddings.weight", "blocks.0.norm.bias", "blocks.1.output.weight", "head.bias"):
                spoil(model, name, float("nan"))
        apply(engine, step)
        optimizer.step()
    return weights(model)


@every_row
def test_a_policy_changes_what_is_not_finite_and_nothing_else(row: Golden) -> None:
    assert_same_bits(train(row.transform, "skip", spoiled=2), train(row.transform, "propagate", without=2))
    whole = train(row.transform, "propagate")
    for policy in ("skip", "raise"):
        assert_same_bits(train(row.transform, policy), whole)


@cases("kind", OPTIMIZERS)
@cases("transform", [CHAIN, HeadOnly()], ids=repr)
def test_a_skipped_window_is_one_that_never_was(transform: GradientTransform, kind: str) -> None:
    spoiled = train(transform, "skip", spoiled=2, kind=kind)
    assert_same_bits(spoiled, train(transform, "propagate", without=2, kind=kind))


@cases("transform", [Identity(), CHAIN, GlobalNormClip(1.0), ValueClip(1.0)], ids=repr)
def test_what_propagates_reaches_the_weights_as_in_torch(transform: GradientTransform) -> None:
    assert (
        not torch.stack([weight.sum() for weight in train(transform, "propagate", spoiled=2).values()]).isfinite().all()
    )


@cases("value", BAD)
def test_raising_names_the_first_tensor_and_the_step_and_changes_nothing(value: float) -> None:
    model = Small()
    engine = engine_of(model, CHAIN, "raise")
    set_gradients(model, 3)
    for name in ("norm.weight", "blocks.1.output.bias", "head.weight"):
        spoil(model, name, value)
    before = snapshot(model)
    message = "Found an infinite or undefined one, of `blocks.1.output.bias`, at step 3"
    with pytest.raises(FloatingPointError, match=message):
        apply(engine, 3)
    assert_same_bits(snapshot(model), before)
    assert engine.current is None
    assert engine.statistics["nonfinite"] == 1


@cases("value", BAD)
@cases("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_kind_of_bad_entry_is_found(dtype: torch.dtype, value: float) -> None:
    model = nn.Linear(5, 3).to(dtype)
    engine = GradientEngine(model, Identity(), nonfinite="skip")
    model.weight.grad = torch.full_like(model.weight, torch.finfo(dtype).max)  # large, and finite
    model.bias.grad = torch.ones_like(model.bias)
    apply(engine, 0)
    assert model.weight.grad is not None
    spoil(model, "weight", value)
    apply(engine, 1)
    assert model.weight.grad is None
    assert model.bias.grad is None
    assert engine.statistics["nonfinite"] == 1


def test_a_tensor_that_is_dropped_whole_does_not_count() -> None:
    model = Small()
    engine = engine_of(model, HeadOnly(), "raise")
    set_gradients(model, 0)
    spoil(model, "embeddings.weight", float("nan"))
    apply(engine, 0)
    assert engine.statistics["nonfinite"] == 0


def test_it_counts_where_a_clip_reads_it_first() -> None:
    model = Small()
    engine = engine_of(model, Chain([GlobalNormClip(1.0), HeadOnly()]), "skip")
    set_gradients(model, 0)
    spoil(model, "embeddings.weight", float("nan"))
    apply(engine, 0)
    assert engine.statistics["nonfinite"] == 1


@cases("policy", ["skip", "raise"])
def test_an_overflow_under_a_loss_scale_is_left_to_the_scaler(policy: NonFinite) -> None:
    results, policies = [], (policy, "propagate")
    for each in policies:
        model = Small()
        engine = engine_of(model, CHAIN, each)  # type: ignore[arg-type]
        set_gradients(model, 0)
        spoil(model, "head.bias", float("inf"))
        apply(engine, 0, loss_scale=torch.tensor(1024.0))
        results.append(snapshot(model))
        if each == policy:
            assert engine.statistics["nonfinite"] == 1
    for name, gradient in results[0].items():
        other = results[1][name]
        assert gradient is not None
        assert other is not None
        assert torch.equal(gradient.nan_to_num(7), other.nan_to_num(7))
    spoiled = results[0]["head.bias"]
    assert spoiled is not None
    assert not spoiled.isfinite().all()


def test_a_window_that_is_left_out_has_no_statistics_of_the_one_before() -> None:
    model = Small()
    engine = engine_of(model, CHAIN, "skip")
    for step, value in enumerate((1.0, float("nan"))):
        set_gradients(model, step)
        spoil(model, "head.bias", value)
        apply(engine, step)
        assert set(engine.statistics) >= {"nonfinite"}
        assert ("kept" in engine.statistics) == (step == 0)


@cases("policy", ["propagate", "skip", "raise"])
def test_what_the_scaler_does_not_see_is_clipped_all_the_same(policy: NonFinite) -> None:
    """A scaler checks the parameters of one optimizer; the overflow is in none of them."""
    model = Small()
    engine = engine_of(model, ComponentNormClip(0.01), policy)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD([model.head.weight], lr=1.0)
    scaler.scale(torch.zeros(()))  # makes the scale
    set_gradients(model, 0, scale=4.0)
    spoil(model, "embeddings.weight", float("inf"))
    apply(engine, 0, loss_scale=torch.tensor(4.0))
    before = model.head.weight.detach().clone()
    scaler.step(optimizer)
    assert float((model.head.weight.detach() - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_count_goes_on_after_a_resume() -> None:
    model = Small()
    engine = engine_of(model, CHAIN, "skip")
    set_gradients(model, 0)
    spoil(model, "head.bias", float("inf"))
    apply(engine, 0)
    resumed = engine_of(model, CHAIN, "skip")
    resumed.load_state_dict(engine.state_dict())
    assert resumed.statistics["nonfinite"] == 1


def test_without_a_policy_nothing_is_counted() -> None:
    assert "nonfinite" not in engine_of(Small(), Identity(), "propagate").statistics


def test_an_unknown_policy_is_refused() -> None:
    message = r"`nonfinite` should be one of 'propagate', 'skip', 'raise'. Found `nonfinite = 'skp'`.*skip"
    with pytest.raises(ConfigurationError, match=message):
        engine_of(Small(), Identity(), "skp")  # type: ignore[arg-type]
