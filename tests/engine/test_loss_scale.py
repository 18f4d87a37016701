"""GradientEngine in a plain PyTorch loop: fp16 under a loss scale."""

from typing import Any

import pytest
import torch

from lightning_sparsegrad import (
    Chain,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    HeadOnly,
    Identity,
    LayerGradDrop,
    ValueClip,
)
from tests.cases import cases
from tests.engine.helpers import BOTH, OPTIMIZERS, backward, loss_on, tokens_at, weights
from tests.transforms.small import Small, assert_same_bits, set_gradients

FP16 = [
    Identity(),
    BOTH,
    Chain([LayerGradDrop(0.5), GlobalNormClip(0.02)]),
    Chain([ValueClip(1e-3), GradDrop(0.5, rescale=True)]),
]


@cases("transform", FP16, ids=str)
@cases("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_scaled_gradients_with_their_scale_give_the_weights_of_the_run_without(
    transform: GradientTransform, optimizer: Any
):
    plain, scaled = Small(), Small()
    runs = [
        (model, optimizer(model.parameters()), GradientEngine(model, transform, seed=1)) for model in (plain, scaled)
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    for step in range(5):
        for model, steps, engine in runs:
            steps.zero_grad()
            with engine.window(step):
                loss = loss_on(model, tokens_at(step))
                if model is plain:
                    backward(loss)
                    engine.apply_()
                    steps.step()
                else:
                    backward(scaler.scale(loss))
                    engine.apply_(loss_scale=scaler.scale(torch.ones(())))
                    scaler.step(steps)
                    scaler.update()
    assert scaler.get_scale() == 2.0**14
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(scaled.get_parameter(name), parameter, rtol=1e-5, atol=1e-7, msg=name)


OVERFLOWN = [Identity(), GradDrop(0.9), GradDrop(0.9, granularity="row"), ValueClip(0.1), GlobalNormClip(0.1), BOTH]


@cases("transform", OVERFLOWN, ids=str)
@cases("bad", [float("inf"), float("-inf"), float("nan")], ids=str)
def test_an_overflow_is_seen_by_the_scaler_also_where_a_mask_drops_it(transform: GradientTransform, bad: float):
    model = Small()
    engine = GradientEngine(model, transform)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index in range(0, model.embeddings.weight.numel(), 3):
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        backward(scaler.scale(loss_on(model, tokens_at(0))))
        assert model.embeddings.weight.grad is not None
        model.embeddings.weight.grad.view(-1)[index] = bad
        with engine.window(0):
            engine.apply_(loss_scale=scaler.scale(torch.ones(())))
        before = weights(model)
        scaler.step(optimizer)
        scaler.update()
        assert_same_bits(weights(model), before)
        assert scaler.get_scale() == 128.0
        optimizer.zero_grad()


def test_an_overflow_in_what_is_dropped_whole_does_not_count():
    model = Small()
    engine = GradientEngine(model, HeadOnly())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    backward(scaler.scale(loss_on(model, tokens_at(0))))
    assert model.embeddings.weight.grad is not None
    model.embeddings.weight.grad.fill_(float("inf"))
    with engine.window(0):
        engine.apply_(loss_scale=scaler.scale(torch.ones(())))
    before = weights(model)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 256.0
    assert not torch.equal(model.head.weight, before["head.weight"])
    assert torch.equal(model.embeddings.weight, before["embeddings.weight"])


def test_everything_dropped_is_an_error_under_a_loss_scale_only():
    model = Small()
    engine = GradientEngine(model, GradDrop(1.0))
    set_gradients(model, 0)
    with engine.window(0):
        engine.apply_()
    assert all(parameter.grad is None for parameter in model.parameters())
    set_gradients(model, 0)
    message = (
        r"`GradDrop\(rate=1\)` should keep a gradient under loss scaling, or the scaler finds none to check. "
        r"Found all dropped at step 7\."
    )
    with pytest.raises(ConfigurationError, match=message), engine.window(7):
        engine.apply_(loss_scale=torch.tensor(8.0))


def test_a_loss_scale_that_is_no_tensor_is_refused():
    model = Small()
    engine = GradientEngine(model, Identity())
    set_gradients(model, 0)
    message = r"`loss_scale` should be a 0-d tensor. Found `loss_scale = 1024.0`"
    with pytest.raises(ConfigurationError, match=message), engine.window(0):
        engine.apply_(loss_scale=1024.0)  # type: ignore[arg-type]


# ---------------------------------------------------------------- gradients that the scaler has unscaled already
@cases("transform", [*FP16, HeadOnly()], ids=str)
@cases("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_unscaled_gradients_give_the_weights_of_scaled_ones_and_overflows_skip_the_step(
    transform: GradientTransform, optimizer: Any
):
    runs = []
    for unscaled in (False, True):
        model = Small()
        engine, steps = GradientEngine(model, transform, seed=1, nonfinite="raise"), optimizer(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        for step in range(5):
            steps.zero_grad()
            with engine.window(step):
                backward(scaler.scale(loss_on(model, tokens_at(step))))
                if step == 2:
                    assert model.head.weight.grad is not None
                    model.head.weight.grad[0, 0] = float("inf")
                if unscaled:
                    scaler.unscale_(steps)
                    engine.apply_(unscaled=True)
                else:
                    engine.apply_(loss_scale=scaler.scale(torch.ones(())))
                scaler.step(steps)
                scaler.update()
        assert engine.statistics["nonfinite"] == 1
        runs.append((weights(model), scaler.get_scale()))
    (scaled, scale), (true, other_scale) = runs
    assert scale == other_scale == 2.0**13  # it grew, fell at the overflow and grew again
    for name, weight in scaled.items():
        torch.testing.assert_close(true[name], weight, rtol=1e-5, atol=1e-7, msg=name)


def test_everything_may_be_dropped_after_unscaling():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, scaler = GradientEngine(model, GradDrop(1.0)), torch.amp.GradScaler("cpu", init_scale=4.0)
    before = weights(model)
    with engine.window(0):
        backward(scaler.scale(loss_on(model, tokens_at(0))))
        scaler.unscale_(optimizer)
        engine.apply_(unscaled=True)
    scaler.step(optimizer)
    scaler.update()
    assert_same_bits(weights(model), before)


def test_a_loss_scale_of_unscaled_gradients_is_refused():
    engine = GradientEngine(Small(), Identity())
    with engine.window(0):
        with pytest.raises(ConfigurationError, match="`loss_scale` should be omitted with `unscaled = True`"):
            engine.apply_(loss_scale=torch.ones(()), unscaled=True)
        engine.apply_()
