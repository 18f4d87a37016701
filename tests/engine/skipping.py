"""Loops with and without skipping of dropped gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparsegrad import (
    ComponentNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    LayerGradDrop,
)
from tests.engine.helpers import OPTIMIZERS, backward, loss_on, tokens_at
from tests.transforms.small import Small, trained

TENSOR_CLIP = ComponentNormClip(0.05, components="tensor")
LAYERS = LayerGradDrop(0.5)
TENSORS = GradDrop(0.5, granularity="tensor")
Loss = Callable[[nn.Module, int], Tensor]


def small(*, tied: bool = False) -> Small:
    """Return the small model with inputs that torch multiplies with the same kernels in any case."""
    model = Small(tied=tied)
    for block in model.blocks:
        block.attention.batch_first = False  # type: ignore[union-attr]  # its transposed inputs are what differs
    return model


def train(
    model: nn.Module,
    transform: GradientTransform,
    *,
    skip: bool,
    loss: Loss = lambda model, step: loss_on(model, tokens_at(step)),
    steps: int = 6,
    optimizer: Any = OPTIMIZERS["AdamW"],
    accumulate: int = 1,
    set_to_none: bool = True,
    seed: int = 3,
) -> dict[str, Tensor]:
    """Train a model; return its weights."""
    torch.manual_seed(0)
    stepper = optimizer(model.parameters())
    engine = GradientEngine(model, transform, total_steps=steps, seed=seed, skip_dropped=skip)
    engine.attach(stepper)
    for step in range(steps):
        with engine.window(step, epoch=step // 2):
            for part in range(accumulate):
                backward(loss(model, step * accumulate + part))
            engine.apply_()
        stepper.step()
        stepper.zero_grad(set_to_none=set_to_none)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def one_window(engine: GradientEngine, model: nn.Module, step: int = 0) -> set[str]:
    """Run a window; return the parameters whose gradients it computes."""
    with engine.window(step, epoch=0):
        backward(loss_on(model, tokens_at(step)))
        names = trained(model)
        engine.apply_()
    return names


def warmed_up(model: nn.Module, transform: GradientTransform, **arguments: Any) -> GradientEngine:
    """Return an engine after its first window, which it always computes whole."""
    engine = GradientEngine(model, transform, **{"total_steps": 6, "seed": 3, **arguments})
    assert one_window(engine, model) == trained_by(model)
    model.zero_grad()
    return engine


def trained_by(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def computed(model: nn.Module, transform: GradientTransform, step: int = 0) -> set[str]:
    """Return the parameters whose gradients a window computes."""
    return one_window(warmed_up(model, transform), model, step)


def hugging_face(model: nn.Module, step: int) -> Tensor:
    tokens = torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(step))
    labels = tokens if hasattr(model, "lm_head") else torch.tensor([0, 1, 1, 0])
    loss: Tensor = model(input_ids=tokens, labels=labels).loss
    return loss


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
