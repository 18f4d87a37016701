"""No strategy waits for an accelerator in a step: every golden row on a model of meta tensors, step by step."""

import pytest
import torch
from torch import nn

from lightning_sparsegrad import GradDrop, GradientTransform
from lightning_sparsegrad.engine import GradientMeter
from tests.on_meta import META, traffic_of
from tests.transforms.golden import GOLDEN
from tests.transforms.small import STEPS_PER_EPOCH, WINDOWS, Small, engine_for

COPIED = 1  # by GradDrop its keys, by a norm clip its thresholds if they differ


def set_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)


def may_copy(transform: GradientTransform) -> int:
    """Return how many copies of small numbers a window of a strategy may take."""
    members = list(transform.flattened())
    return sum(
        COPIED
        for member in members
        if (isinstance(member, GradDrop) and member.granularity == "element") or getattr(member, "overrides", None)
    )


@pytest.mark.parametrize("metered", [False, True], ids=["alone", "metered"])
@pytest.mark.parametrize("loss_scale", [None, torch.empty((), device=META)], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("row", GOLDEN, ids=str)
def test_a_step_reads_nothing_on_the_host(row, loss_scale, metered):
    model = Small().to(META)
    engine = engine_for(model, row.transform)
    if metered:
        engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
    for step in WINDOWS:
        set_gradients(model)

        def take_step(step: int = step) -> None:
            with engine.window(step, epoch=step // STEPS_PER_EPOCH):
                engine.apply_(loss_scale=loss_scale)

        assert len(traffic_of(take_step).copies) <= may_copy(row.transform)
