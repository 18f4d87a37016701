"""Strategies that calibrate, learn from steps or act on updates: a Trainer does what the plain loop does."""

from typing import Any

import pytest
import torch
from torch.amp import GradScaler

from lightning_sparsegrad import Chain, GradDrop, GradientTransform
from tests.cases import cases
from tests.engine.phases import FirstRowStays, LargestOfFirst, LargestSeen

from .tasks import DOORS, SEED, Regression, assert_same_weights, door_of, fit, plain_loop, weights, windows
from .test_precision import HALF, Fused, Spiked, half

STRATEGIES: dict[str, GradientTransform] = {
    "learns": LargestSeen(),
    "update": FirstRowStays(),
    "calibration": LargestOfFirst(),
    "all": Chain([LargestOfFirst(), GradDrop(0.3), LargestSeen(), FirstRowStays()]),
}


@cases("accumulate", [1, 3])
@cases("name", STRATEGIES)
@cases("door", DOORS)
def test_a_fit_does_what_the_plain_loop_does(door: str, name: str, accumulate: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", str(SEED))
    run = fit(door, STRATEGIES[name], accumulate_grad_batches=accumulate, max_epochs=2)
    expected = plain_loop(Regression(), STRATEGIES[name], windows(accumulate, accumulate))
    assert_same_weights(weights(run), expected)


@pytest.mark.parametrize("door", DOORS)
def test_rows_stay_whatever_weight_decay_does(door: str):
    run = fit(door, FirstRowStays(), max_epochs=2)
    for name, weight in weights(run).items():
        before = weights(Regression())[name]
        assert weight.ndim != 2 or torch.equal(weight[0], before[0])
        assert not torch.equal(weight, before) or weight.shape[0] == 1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("door", DOORS)
def test_an_overflow_teaches_nothing(door: str, fused: bool, monkeypatch: pytest.MonkeyPatch):
    kind: Any = type("Overflowing", (Spiked, Fused), {}) if fused else Spiked
    strategy = Chain([LargestSeen(), FirstRowStays()])
    run = fit(door, strategy, kind, **half(GradScaler("cpu", 256.0)))
    learner, keeper = door_of(run).gradient_engine.transform.flattened()
    assert isinstance(learner, LargestSeen)
    assert isinstance(keeper, FirstRowStays)
    assert all(0 < norm < 100 for norm in learner.largest.values())
    assert keeper.happened == ([True] * 2 + [False] + [True] * 4 if fused else [True] * 6)


def test_half_precision_is_the_plain_loop_with_a_scaler():
    strategy = Chain([LargestSeen(), FirstRowStays()])
    run = fit("module", strategy, **half(GradScaler("cpu", 256.0)))
    expected = plain_loop(Regression(), strategy, windows(1), autocast=HALF, scaler=GradScaler("cpu", 256.0))
    torch.testing.assert_close(weights(run), expected, rtol=1e-5, atol=1e-7)
