"""Loops around an adapter that they call by themselves, and the same loop by hand around `GradientEngine`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparsegrad import (
    AutoClip,
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    Identity,
    LayerGradDrop,
    SparseMask,
    TrainableRows,
)
from lightning_sparsegrad.loops._explicit_adapter import ExplicitAdapter
from tests.engine.helpers import BOTH, OPTIMIZERS, backward, loss_on, tokens_at
from tests.transforms.small import Small

BATCHES, EPOCHS, MICRO = 5, 2, 2  # the last window of an epoch holds one micro-batch
ALL = BATCHES * EPOCHS
BORDER = BATCHES + MICRO  # the end of the first window of the second epoch
OPTIONS: dict[str, Any] = {"seed": 5, "total_steps": 6}

TRANSFORMS: dict[str, GradientTransform] = {
    "Identity": Identity(),
    "GradDrop": GradDrop(0.5),
    "ComponentNormClip": ComponentNormClip(0.05),
    "Chain": Chain([LayerGradDrop(0.4), BOTH]),
    "LayerGradDrop": LayerGradDrop(0.5),
    "GradualUnfreezing": GradualUnfreezing(unfreeze_every="epoch"),
    "AutoClip": AutoClip(30.0, history=4),
    "TrainableRows": TrainableRows({"embeddings.weight": [1, 4]}, others="frozen"),
    "SparseMask": SparseMask(0.3, calibration_windows=2),
}
SCALED: dict[str, GradientTransform] = {
    **{name: TRANSFORMS[name] for name in ("Identity", "Chain", "AutoClip", "TrainableRows")},
    "SparseMask": SparseMask(0.3, score="random"),
}


def halves(small: Small) -> list[Optimizer]:
    """Return two optimizers, of the blocks and of all else."""
    blocks = {id(parameter) for parameter in small.blocks.parameters()}
    others = [parameter for parameter in small.parameters() if id(parameter) not in blocks]
    return [OPTIMIZERS["SGD"](group) for group in (others, small.blocks.parameters())]


def new_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)


def tokens_of_epoch() -> list[Tensor]:
    return [tokens_at(batch) for batch in range(BATCHES)]


class Loop(ABC):
    """A loop around an adapter.

    Args:
        transform: The strategy.
        optimizer: A name of `OPTIMIZERS`.
        scaler: A gradient scaler, with which the forward pass runs in fp16.
        compiled: Whether the model is compiled after it was prepared.
        options: Further arguments of the adapter.
    """

    model: Any
    optimizer: Any
    adapter: ExplicitAdapter

    def __init__(
        self,
        transform: GradientTransform,
        *,
        optimizer: str = "AdamW",
        scaler: torch.amp.GradScaler | None = None,
        compiled: bool = False,
        **options: Any,
    ) -> None:
        self.small = Small()
        self.prepare(OPTIMIZERS[optimizer](self.small.parameters()), scaler)
        if compiled:
            self.model = torch.compile(self.model, backend="eager")
        self.adapter = self.adapt(self.model, self.optimizer, transform, **{**OPTIONS, **options})

    @abstractmethod
    def prepare(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        """Set `model` and `optimizer` to what the library returns for `small` and the optimizer."""

    @abstractmethod
    def adapt(self, model: Any, optimizer: Any, transform: GradientTransform, **options: Any) -> ExplicitAdapter: ...

    @abstractmethod
    def train(self, first: int = 0, last: int = ALL, *, spoiled: Collection[int] = ()) -> None:
        """Train on some micro-batches of all epochs; the losses of `spoiled` are infinite."""

    @abstractmethod
    def micro_batch(self, *, applies: bool = True, epoch: int = 0) -> None:
        """Run one micro-batch in a window, and step as after the last."""

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    @abstractmethod
    def load(self, folder: Path) -> None: ...


def loss_of(model: Callable[[Tensor], Tensor], tokens: Tensor, index: int, spoiled: Collection[int]) -> Tensor:
    loss = loss_on(model, tokens)  # type: ignore[arg-type]  # a function of tokens will do
    return loss * inf if index in spoiled else loss


def is_last(index: int) -> bool:
    """Return whether a micro-batch is the last one of its window."""
    return index % BATCHES % MICRO == MICRO - 1 or index % BATCHES == BATCHES - 1


def by_hand(
    transform: GradientTransform,
    *,
    optimizer: str = "AdamW",
    scaler: torch.amp.GradScaler | None = None,
    unscales: bool = False,
    spoiled: Collection[int] = (),
    compiled: bool = False,
    **options: Any,
) -> Small:
    """Train by hand, and return the model."""
    model = Small()
    steps = OPTIMIZERS[optimizer](model.parameters())
    forward: Any = torch.compile(model, backend="eager") if compiled else model
    engine = GradientEngine(model, transform, wrapped_model=forward, **{**OPTIONS, **options})
    engine.attach(steps)

    def called(tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16, enabled=scaler is not None):
            logits: Tensor = forward(tokens)
        return logits.float()

    for index in range(ALL):
        epoch, batch = divmod(index, BATCHES)
        if batch % MICRO == 0:
            engine.open(epoch=epoch)
        loss = loss_of(called, tokens_at(batch), index, spoiled) / MICRO
        backward(loss if scaler is None else scaler.scale(loss))
        if not is_last(index):
            continue
        if scaler is None:
            engine.apply_()
        elif unscales:
            scaler.unscale_(steps)
            engine.apply_(unscaled=True)
        else:
            engine.apply_(loss_scale=scaler.scale(torch.ones(())))
        engine.abandon()
        if scaler is None:
            steps.step()
        else:
            scaler.step(steps)
            scaler.update()
        steps.zero_grad()
    return model
