"""GradientEngine in a plain PyTorch loop: frozen means frozen."""

from typing import Any

import torch
from torch import nn

from lightning_sparsegrad import (
    Chain,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    LayerGradDrop,
    TopDown,
)
from tests.cases import cases
from tests.engine.helpers import OPTIMIZERS, backward, loss_on, tokens_at, weights
from tests.transforms.small import Small, bits, fill_gradients

DROPPING: dict[str, GradientTransform] = {
    "LayerGradDrop": LayerGradDrop(0.5),
    "GradualUnfreezing": GradualUnfreezing(unfreeze_every=2),
    "HeadOnly": HeadOnly(),
    "GradDrop of tensors": GradDrop(0.5, granularity="tensor"),
    "GradDrop of components": GradDrop(0.6, granularity="component"),
    "GradDrop of entries, all": GradDrop(1.0, include="blocks.*"),
    "GradDrop of rows, all": GradDrop(1.0, granularity="row", exclude="head.*"),
    "GradDrop from the top down": GradDrop(TopDown()),
    "Chain": Chain([LayerGradDrop(0.5), GlobalNormClip(1.0), GradDrop(0.5)]),
}


@cases("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@cases("transform", DROPPING.values(), ids=DROPPING)
@cases("set_to_none", [True, False], ids=["to None", "to zero"])
def test_weights_stay_bit_for_bit_while_their_tensor_is_dropped_whole(
    optimizer: Any, transform: GradientTransform, set_to_none: bool
):
    model, frozen, moved = Small(), 0, 0
    steps = optimizer(model.parameters())
    engine = GradientEngine(model, transform, total_steps=8, seed=5)
    for step in range(8):
        with engine.window(step):
            backward(loss_on(model, tokens_at(step)))
            engine.apply_()
        before = weights(model)
        steps.step()
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                assert torch.equal(bits(parameter.detach()), bits(before[name])), f"{name} moved while it was dropped"
                frozen += 1
            elif parameter.grad.abs().sum() > 0:
                assert not torch.equal(parameter, before[name]), f"{name} did not move"
                moved += 1
        steps.zero_grad(set_to_none=set_to_none)
    assert frozen > 8
    assert moved > 8


def test_weights_move_by_decay_where_single_entries_are_dropped():
    model = nn.Linear(20, 20, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    engine = GradientEngine(model, GradDrop(0.5))
    fill_gradients(model)
    with engine.window(0):
        engine.apply_()
    assert model.weight.grad is not None
    dropped, before = model.weight.grad == 0, model.weight.detach().clone()
    optimizer.step()
    assert 100 < int(dropped.sum()) < 300
    torch.testing.assert_close(model.weight.detach()[dropped], before[dropped] * 0.95)
    torch.testing.assert_close(model.weight.detach()[~dropped], before[~dropped] * 0.95 - 0.5)
