"""Warnings about strategies with which nothing trains, or nothing is unfrozen, in a run."""

import warnings

import pytest
from torch import nn

from lightning_sparsegrad import (
    Chain,
    Constant,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    LayerGradDrop,
    Linear,
)
from lightning_sparsegrad.loops._untrained import warn_of_untrained
from tests.cases import cases
from tests.lightning.conftest import run_of_its_own  # noqa: F401
from tests.lightning.tasks import DOORS, fit
from tests.transforms.headless import llama

NOTHING = "^Nothing trains: `.*` drops every gradient in every step of this run"
FROZEN = r"^`GradualUnfreezing\(.*\)` unfreezes nothing in this run of 7 steps: 3 layers never train"


@cases("door", DOORS)
@cases(
    ("strategy", "message"),
    [
        (GradDrop(1.0), NOTHING),
        (GradDrop(Constant(1.0), granularity="tensor"), NOTHING),
        (Chain([GradDrop(1.0), GlobalNormClip(1.0)]), NOTHING),
        (Chain([GradDrop(1.0, include="*head*"), GradDrop(1.0, exclude="*head*", seed=1)]), NOTHING),
        (GradualUnfreezing(unfreeze_every=100), FROZEN),
        (GradualUnfreezing(unfreeze_every="epoch"), FROZEN),
        (GradualUnfreezing(schedule=Constant(0.0)), FROZEN),
    ],
    ids=repr,
)
def test_a_run_that_trains_nothing_is_said(door: str, strategy: GradientTransform, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        fit(door, strategy)


@cases(
    "strategy",
    [
        GradDrop(0.9),
        GradDrop(Linear(1.0, 0.0)),
        GradDrop(Linear(1.0, 0.0, begin=0.9)),
        GradDrop(1.0, exclude="*head*"),
        HeadOnly(),
        GradualUnfreezing(unfreeze_every=6),
        GradualUnfreezing(),
    ],
    ids=repr,
)
def test_a_run_that_trains_something_is_not(strategy: GradientTransform) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*(many workers|logging interval|LeafSpec)")
        fit("module", strategy)


def _warnings(model: nn.Module, strategy: GradientTransform) -> list[str]:
    messages: list[str] = []
    engine = GradientEngine(model, strategy, total_steps=7)
    warn_of_untrained(engine, count=lambda: 7, epoch_steps=lambda: 7, warn=messages.append)
    return messages


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21, transformers 5.23
def test_layers_that_are_frozen_anyway_are_not_counted() -> None:
    assert _warnings(llama(), GradualUnfreezing(unfreeze_every=100)) == [
        "`GradualUnfreezing(unfreeze_every=100)` unfreezes nothing in this run of 7 steps: 2 layers never train."
    ]
    one = llama(layers_to_transform=[1])
    for strategy in (GradualUnfreezing(unfreeze_every=100), HeadOnly(), LayerGradDrop(1.0)):
        assert _warnings(one, strategy) == []
    assert _warnings(llama(), LayerGradDrop(1.0)) == []
