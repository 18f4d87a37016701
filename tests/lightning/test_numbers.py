"""Numbers of optimizers and schedulers that torch takes as they are."""

from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR

from lightning_sparsegrad import ConfigurationError
from lightning_sparsegrad.modules import LinearDecay
from lightning_sparsegrad.modules._numbers import check_optimizer, check_scheduler
from tests.cases import cases


def weights() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2))]


@cases(
    ("kind", "arguments", "value"),
    [
        (AdamW, {"lr": 1e308}, "lr = 1e[+]308"),
        (AdamW, {"lr": float("inf")}, "lr = inf"),
        (AdamW, {"weight_decay": float("inf")}, "weight_decay = inf"),
        (AdamW, {"weight_decay": 1e39}, "weight_decay = 1e[+]39"),
        (AdamW, {"eps": float("inf")}, "eps = inf"),
        (SGD, {"lr": 0.1, "momentum": float("inf")}, "momentum = inf"),
    ],
)
def test_numbers_that_leave_no_weight_finite_are_refused(kind: Any, arguments: dict[str, float], value: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"of `{kind.__name__}` should be finite in float32, .* Found `{value}`"
    ):
        check_optimizer(kind(weights(), **arguments), is_scheduled=False)


def test_a_learning_rate_of_zero_is_said() -> None:
    with pytest.warns(UserWarning, match="`SGD` changes no weight: `lr = 0`"):
        check_optimizer(SGD(weights(), lr=0.0), is_scheduled=False)
    check_optimizer(SGD(weights(), lr=0.0), is_scheduled=True)  # `OneCycleLR` sets one of its own
    check_optimizer(AdamW(weights(), lr=torch.tensor(0.1)), is_scheduled=False)


@cases(
    ("kind", "arguments", "message"),
    [
        (ExponentialLR, {"gamma": float("nan")}, "`gamma` of `ExponentialLR` should be finite"),
        (ExponentialLR, {"gamma": 1e300}, "`gamma` of `ExponentialLR` should be finite"),
        (ExponentialLR, {"gamma": -1.0}, "`gamma` of `ExponentialLR` should not be negative"),
        (StepLR, {"step_size": 1, "gamma": -0.5}, "`gamma` of `StepLR` should not be negative"),
        (CosineAnnealingLR, {"T_max": 3, "eta_min": -0.1}, "`eta_min` of `CosineAnnealingLR` should not be negative"),
    ],
)
def test_numbers_that_make_no_learning_rate_are_refused(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_scheduler(kind(SGD(weights(), lr=0.1), **arguments))


@cases(
    ("kind", "arguments"),
    [
        (LinearDecay, {"warmup": 0.1}),
        (OneCycleLR, {"max_lr": 0.1, "total_steps": 5}),
        (ReduceLROnPlateau, {}),
        (StepLR, {"step_size": 1, "gamma": 0.0}),
    ],
)
def test_others_are_let_through(kind: Any, arguments: dict[str, Any]) -> None:
    check_scheduler(kind(SGD(weights(), lr=0.1, momentum=0.9), **arguments))
