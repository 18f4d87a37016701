"""GradDrop: arguments and models that it refuses."""

from math import nan
from typing import Any

import pytest
from torch import nn

from lightning_sparsegrad import ConfigurationError, Constant, GradDrop, GradientEngine, Linear, TopDown
from tests.cases import cases
from tests.transforms.small import Small, on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


def _refusals() -> dict[str, tuple[dict[str, Any], str]]:
    rates = "Parameter `rate` should be in [0, 1]. Found `rate = "
    number = "Parameter `rate` should be a number or a schedule. Found "
    every = "Parameter `resample_every` should be a positive number of steps, 'epoch' or None. Found `resample_every = "
    seed = "Parameter `seed` should be a non-negative integer, or None for the seed of the run. Found `seed = "
    units = "Parameter `granularity` should be one of 'element', 'row', 'tensor', 'component'. Found `granularity = "
    kinds = (
        "Parameter `components` should be one of 'projection', 'tensor', 'module', 'block', 'global', or map "
        "patterns to names."
    )
    rescale = "Parameter `rate` should stay below 1 with `rescale`: nothing is left to rescale. Found `rate = "
    component: dict[str, Any] = {"rate": 0.5, "granularity": "component"}
    return {
        "a negative rate": ({"rate": -0.1}, f"{rates}-0.1`."),
        "a rate above 1": ({"rate": 1.0001}, f"{rates}1.0001`."),
        "an undefined rate": ({"rate": nan}, f"{rates}nan`."),
        "an infinite rate": ({"rate": float("inf")}, f"{rates}inf`."),
        "a rate in words": ({"rate": "half"}, f"{number}`'half'`."),
        "a rate of True": ({"rate": True}, f"{number}`True`."),
        "no rate": ({"rate": None}, f"{number}`None`."),
        "a schedule that leaves [0, 1]": ({"rate": Linear(0.5, 1.5)}, f"{rates}Linear(0.5, 1.5, begin=0, finish=1)`."),
        "an undefined constant": ({"rate": Constant(nan)}, f"{rates}nan`."),
        "no steps": ({"rate": 0.5, "resample_every": 0}, f"{every}0`."),
        "negative steps": ({"rate": 0.5, "resample_every": -1}, f"{every}-1`."),
        "steps of True": ({"rate": 0.5, "resample_every": True}, f"{every}True`."),
        "broken steps": ({"rate": 0.5, "resample_every": 1.5}, f"{every}1.5`."),
        "an unknown word": ({"rate": 0.5, "resample_every": "epochs"}, f"{every}'epochs'`."),
        "an unknown granularity": (
            {"rate": 0.5, "granularity": "elements"},
            f"{units}'elements'`. Near matches: `element`.",
        ),
        "no granularity": ({"rate": 0.5, "granularity": None}, f"{units}None`."),
        "components without the granularity": (
            {"rate": 0.5, "components": "block"},
            "Parameter `components` should be given with `granularity = 'component'` only. "
            "Found `granularity = 'element'`.",
        ),
        "unknown components": (
            {**component, "components": "blocks"},
            f"{kinds} Found `components = 'blocks'`. Near matches: `block`.",
        ),
        "empty components": (
            {**component, "components": {}},
            "Parameter `components` should hold a pattern. Found `components = {}`.",
        ),
        "a kernel in words": (
            {"rate": 0.5, "fused": "auto"},
            "Parameter `fused` should be True, False or None. Found `fused = 'auto'`.",
        ),
        "a kernel for what needs none": (
            {"rate": 0.5, "granularity": "row", "fused": True},
            "Parameter `fused` should be True with `granularity = 'element'` only. Found `granularity = 'row'`.",
        ),
        "a rate of 1, rescaled": ({"rate": 1, "rescale": True}, f"{rescale}1`."),
        "a rate that reaches 1, rescaled": (
            {"rate": TopDown(), "rescale": True},
            f"{rescale}TopDown(1, 0, width=0.5)`.",
        ),
        "a negative seed": ({"rate": 0.5, "seed": -1}, f"{seed}-1`."),
        "a seed of True": ({"rate": 0.5, "seed": True}, f"{seed}True`."),
        "a seed in words": ({"rate": 0.5, "seed": "7"}, f"{seed}'7'`."),
        "a broken seed": ({"rate": 0.5, "seed": 7.0}, f"{seed}7.0`."),
    }


@cases(("arguments", "message"), _refusals().values(), ids=_refusals())
def test_an_argument_outside_its_range_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError) as refused:
        GradDrop(**arguments)
    assert str(refused.value) == message


UNBINDABLE = {
    "include matches nothing": (
        {"include": "block.*"},
        "Parameter `include` should hold patterns that match a parameter name. Found `block.*`, which matches none of ",
    ),
    "exclude matches nothing": (
        {"exclude": ["*.bias", "heads.weight"]},
        "Parameter `exclude` should hold patterns that match a parameter name. Found `heads.weight`",
    ),
    "near matches are listed": ({"include": "head.weigth"}, "Near matches: `head.weight`"),
    "nothing is left": (
        {"include": "head.*", "exclude": "head.*"},
        "Parameters `include` and `exclude` should leave something. Found `include = head.*`, `exclude = head.*`",
    ),
    "components match nothing": (
        {"granularity": "component", "components": {"encoder.*": "encoder", "*": "rest"}},
        "Parameter `components` should hold patterns that match a parameter name. Found `encoder.*`",
    ),
    "components leave a parameter out": (
        {"granularity": "component", "components": {"blocks.*": "blocks"}},
        "Parameter `components` should match every parameter; a last pattern `*` takes the rest.",
    ),
    "a schedule without an end": (
        {"rate": Linear(0.5, 0.0)},
        "Parameter `total_steps` should be given for `GradDrop` with a schedule over training "
        "(Linear(0.5, 0, begin=0, finish=1)). Found `total_steps = None`.",
    ),
}


@cases(("arguments", "message"), UNBINDABLE.values(), ids=UNBINDABLE)
def test_what_does_not_fit_the_model_is_refused(arguments: dict[str, Any], message: str):
    transform = GradDrop(**{"rate": 0.5, **arguments})
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(Small(), transform)
    assert message in str(refused.value)


def test_a_rate_that_follows_depth_needs_layers():
    with pytest.raises(ConfigurationError, match="Found no list of blocks in `Linear`"):
        GradientEngine(nn.Linear(2, 2), GradDrop(TopDown()), total_steps=10)
