"""GradientEngine in a plain PyTorch loop: its state, and loops that resume from it."""

from copy import deepcopy
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import (
    Chain,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    Identity,
    LayerGradDrop,
    Linear,
    ValueClip,
)
from tests.cases import cases
from tests.engine.helpers import BOTH, OPTIMIZERS, backward, loss_on, tokens_at, weights
from tests.transforms.small import Small, assert_same_bits, set_gradients, snapshot


def test_the_state_restores_the_seed_of_the_run_that_goes_on():
    model = Small()
    first, second = GradientEngine(model, GradDrop(0.5), seed=4), GradientEngine(model, GradDrop(0.5), seed=5)
    results = []
    for engine in (first, second):
        set_gradients(model, 0)
        with engine.window(0):
            engine.apply_()
        results.append(snapshot(model))
    second.load_state_dict(first.state_dict())
    assert second.seed == 4
    set_gradients(model, 0)
    with second.window(0):
        second.apply_()
    assert_same_bits(snapshot(model), results[0])
    with pytest.raises(AssertionError):
        assert_same_bits(results[0], results[1])


@cases(
    ("state", "message"),
    [
        ({"transform": {}}, "Parameter `state` should hold a `seed`. Found keys ['transform']."),
        ({"seed": -1}, "Parameter `seed` should be a non-negative integer. Found `seed = -1`."),
        ({"seed": "4"}, "Parameter `seed` should be a non-negative integer. Found `seed = '4'`."),
    ],
    ids=str,
)
def test_a_state_without_a_seed_is_refused(state: dict[str, Any], message: str):
    engine = GradientEngine(Small(), Identity(), seed=2)
    with pytest.raises(ConfigurationError) as refused:
        engine.load_state_dict(state)
    assert str(refused.value) == message
    assert engine.seed == 2


RESUMED = [
    BOTH,
    Chain([LayerGradDrop(0.5), GlobalNormClip(0.5), GradDrop(Linear(0.8, 0.2), resample_every=3)]),
    Chain([GradualUnfreezing(), GradDrop(0.5, granularity="component", resample_every="epoch"), ValueClip(0.01)]),
]


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, engine: GradientEngine, steps: range
) -> dict[str, Tensor]:
    for step in steps:
        with engine.window(step, epoch=step // 3):
            backward(loss_on(model, tokens_at(step)))
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


@cases("transform", RESUMED, ids=str)
@cases("border", [1, 4, 7], ids=str)
def test_a_resumed_loop_equals_the_one_that_never_stopped(transform: GradientTransform, border: int):
    model = Small()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    engine = GradientEngine(model, transform, total_steps=8, seed=6)
    start = weights(model)
    _train(model, optimizer, engine, range(border))
    file = BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), engine.state_dict()], file)
    expected = _train(model, optimizer, engine, range(border, 8))
    file.seek(0)
    states = torch.load(file, weights_only=True)

    torch.rand(100)  # the global random state is elsewhere by now
    resumed = Small()
    optimizer = OPTIMIZERS["AdamW"](resumed.parameters())
    engine = GradientEngine(resumed, transform, total_steps=8, seed=99)
    parts: list[Any] = [resumed, optimizer, engine]
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    assert_same_bits(_train(resumed, optimizer, engine, range(border, 8)), expected)
    assert not torch.equal(expected["head.weight"], start["head.weight"])


def test_one_transform_may_serve_two_engines():
    transform = Chain([GradDrop(0.5), LayerGradDrop(0.5), GlobalNormClip(0.5)])
    small, other = Small(), nn.ModuleDict({"inner": Small()})
    first, second = GradientEngine(small, transform, seed=1), GradientEngine(other, transform, seed=2)
    alone = GradientEngine(small, deepcopy(transform), seed=1)
    results = []
    for engine in (first, alone):
        set_gradients(small, 0)
        set_gradients(other, 3)
        with engine.window(0), second.window(1):
            second.apply_()
            engine.apply_()
        results.append(snapshot(small))
        assert engine.statistics.keys() == second.statistics.keys()
        assert float(engine.statistics["norm_before/all"]) != float(second.statistics["norm_before/all"])
    assert_same_bits(*results)
