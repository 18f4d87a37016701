"""A loop that trains the small model of the golden rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
    "fused AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
}

BOTH = Chain([GradDrop(0.5), ComponentNormClip(0.05)])


def tokens_at(step: int, count: int = 4) -> Tensor:
    return ((torch.arange(count * 5) * (step + 2) + step) % 7).view(count, 5)


def loss_on(model: nn.Module, tokens: Tensor) -> Tensor:
    return cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, dims=1).flatten())


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
