"""No strategy waits for an accelerator in a step: every golden row on a model of meta tensors, step by step."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import GradientTransform, SparseMask
from lightning_sparsegrad.engine import GradientMeter
from tests.on_meta import META, traffic_of
from tests.transforms.contract import every_row
from tests.transforms.golden import Golden
from tests.transforms.small import WINDOWS, Small, apply, engine_for

SCALE = torch.empty((), device=META)
COPIED = 1  # by GradDrop its keys, by a norm clip its thresholds if they differ


def set_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)


def may_copy(transform: GradientTransform, step: int) -> int:
    """Return how many copies a window of a strategy may take: of small numbers or, in the first one, of masks."""
    members = list(transform.flattened())
    if step == WINDOWS[0] and any(isinstance(member, SparseMask) for member in members):
        return len(list(Small().parameters()))
    return sum(
        COPIED
        for member in members
        if getattr(member, "granularity", None) in {"element", "row"} or getattr(member, "overrides", None)
    )


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param([(None, False), (SCALE, True)], id="plain, and metered under a loss scale"),
        pytest.param([(SCALE, False), (None, True)], id="under a loss scale, and metered", marks=pytest.mark.long),
    ],
)
@every_row
def test_a_step_reads_nothing_on_the_host(row: Golden, ways: list[tuple[Tensor | None, bool]]) -> None:
    for loss_scale, metered in ways:
        model = Small().to(META)
        engine = engine_for(model, row.transform)
        if metered:
            engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
        for step in WINDOWS:
            set_gradients(model)
            scale = None if row.calibrates and step == WINDOWS[0] else loss_scale
            window = partial(apply, engine, step, loss_scale=scale, happens=scale is None)
            reads = int(row.leaves_out)  # whether to leave out the window
            traffic = traffic_of(window, reads=reads)
            assert traffic.reads == reads
            assert len(traffic.copies) <= may_copy(row.transform, step)
