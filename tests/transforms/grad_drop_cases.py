"""Models with many units of every granularity, and the entries that GradDrop keeps."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparsegrad import GradDrop, GradientEngine
from lightning_sparsegrad.transforms.masks.grad_drop import Granularity
from tests.cases import cases
from tests.transforms.small import fill_gradients

UNITS: dict[Granularity, int] = {"element": 64 * 150, "row": 8 * 150, "tensor": 150, "component": 150}
every_granularity = cases("granularity", UNITS)


def wide() -> nn.Module:
    """Many small modules, so that there are many units of every granularity, all of one size."""
    return nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(150))


def kept_in(engine: GradientEngine, model: nn.Module, step: int = 0, epoch: int | None = None) -> Tensor:
    """Return which entries a window keeps, of all parameters in a row."""
    fill_gradients(model)
    with engine.window(step, epoch=epoch):
        engine.apply_()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() != 0 for p in model.parameters()])


def engine_of(model: nn.Module, *, run: int = 1, **arguments: Any) -> GradientEngine:
    return GradientEngine(model, GradDrop(**arguments), total_steps=101, seed=run)
