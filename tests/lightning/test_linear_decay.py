"""The learning rate: up, then down to nothing at the end."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lightning_sparsegrad import ConfigurationError
from lightning_sparsegrad.modules import LinearDecay
from tests.cases import cases


def optimizer(*rates: float) -> SGD:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
    return SGD(groups, lr=0.1)


def train(scheduler: LinearDecay, steps: int) -> list[list[float]]:
    """Return the learning rates of the groups at each of some steps."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


def test_without_warm_up_it_falls_from_the_first_step_on() -> None:
    seen = train(LinearDecay(optimizer(1.0, 0.5), total_steps=4), 4)
    assert seen == [[1.0, 0.5], [0.75, 0.375], [0.5, 0.25], [0.25, 0.125]]


@cases(
    ("warmup", "total", "expected"),
    [
        (0.5, 4, [1 / 3, 2 / 3, 1, 1 / 2]),
        (0.25, 8, [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (0.1, 4, [1, 0.75, 0.5, 0.25]),  # less than a step
        (0.99, 4, [0.25, 0.5, 0.75, 1]),
        (0.0, 1, [1]),
    ],
)
def test_it_rises_for_a_share_of_the_training(warmup: float, total: int, expected: list[float]) -> None:
    seen = train(LinearDecay(optimizer(1.0), warmup=warmup, total_steps=total), total)
    assert [rate for (rate,) in seen] == pytest.approx(expected)


def test_it_stays_at_zero_behind_the_end() -> None:
    assert train(LinearDecay(optimizer(1.0), total_steps=2), 5)[2:] == [[0.0]] * 3


def test_it_keeps_the_rate_until_it_is_told_a_length() -> None:
    scheduler = LinearDecay(optimizer(1.0), warmup=0.5)
    assert scheduler.total_steps is None
    assert scheduler.get_last_lr() == [1.0]
    scheduler.follow(4)
    assert scheduler.total_steps == 4
    assert scheduler.get_last_lr() == pytest.approx([1 / 3])
    assert [rate for (rate,) in train(scheduler, 4)] == pytest.approx([1 / 3, 2 / 3, 1, 1 / 2])


def test_its_state_goes_on_in_another() -> None:
    whole = LinearDecay(optimizer(1.0), warmup=0.25, total_steps=8)
    expected = train(whole, 8)
    half = LinearDecay(optimizer(1.0), warmup=0.25, total_steps=8)
    train(half, 3)
    state: dict[str, Any] = half.state_dict()
    resumed_optimizer = optimizer(1.0)
    resumed = LinearDecay(resumed_optimizer)
    resumed_optimizer.load_state_dict(half.optimizer.state_dict())
    resumed.load_state_dict(state)
    assert train(resumed, 5) == expected[3:]


@cases("warmup", [-0.1, 1.0, 1.5, float("nan")])
def test_a_warm_up_out_of_range_is_refused(warmup: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"`warmup` should be in \[0, 1\). Found `warmup = {warmup}`"):
        LinearDecay(optimizer(1.0), warmup=warmup)


@pytest.mark.parametrize("total", [0, -1])
def test_a_length_that_is_none_is_refused(total: int) -> None:
    message = f"`total_steps` should be positive. Found `total_steps = {total}`"
    with pytest.raises(ConfigurationError, match=message):
        LinearDecay(optimizer(1.0), total_steps=total)
    scheduler = LinearDecay(optimizer(1.0))
    with pytest.raises(ConfigurationError, match=message):
        scheduler.follow(total)
