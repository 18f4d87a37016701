"""The training that every loop does: model, micro-batches, optimizer and strategies; and the loop written by hand."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader

from lightning_sparsegrad import (
    AdaptiveGradientClip,
    AutoClip,
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    LayerGradDrop,
    Linear,
    SparseMask,
    TrainableRows,
    ZClip,
)
from tests.lightning.tasks import Weights
from tests.tiny import VOCABULARY, tiny_bert

EPOCHS, MICRO_BATCHES, ACCUMULATE, SIZE, LENGTH = 2, 7, 2, 2, 5
STEPS_PER_EPOCH = -(-MICRO_BATCHES // ACCUMULATE)  # the last one of an epoch has a short window
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
SAVE_EVERY, RESUMES = 2, (2, 6)  # optimizer steps: checkpoints inside each epoch
SEED, OTHER_SEED = 6, 99

STRATEGIES: Mapping[str, GradientTransform] = {
    "GradDrop": GradDrop(Linear(0.1, 0.6)),
    "ComponentNormClip": ComponentNormClip(0.05),
    "Chain([GradDrop, ComponentNormClip])": Chain([GradDrop(0.5, resample_every="epoch"), ComponentNormClip(0.05)]),
    "LayerGradDrop": LayerGradDrop(0.5),
    "GradualUnfreezing": GradualUnfreezing(unfreeze_every="epoch"),
    "AdaptiveGradientClip": AdaptiveGradientClip(0.01),
    "AutoClip": AutoClip(50.0),
    "ZClip": ZClip(0.5, warmup_steps=2, alpha=0.5, max_norm=10.0),
    "TrainableRows": TrainableRows({"*.word_embeddings.weight": [5, 8, 13, 21]}),
    "SparseMask": SparseMask(0.3, calibration_windows=3),  # its calibration is unfinished at the first checkpoint
}

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Job:
    """One training by one process: with a strategy, from the start or a checkpoint.

    Attributes:
        strategy: The strategy.
        folder: The folder of the loop's checkpoints.
        saves: Whether the loop writes one every `SAVE_EVERY` steps.
        resume: Optimizer steps that are done in the checkpoint to resume from; 0 for none.
        rank: Rank of the process.
        world: Number of processes.
    """

    strategy: GradientTransform
    folder: Path
    saves: bool = False
    resume: int = 0
    rank: int = 0
    world: int = 1

    @property
    def transform(self) -> GradientTransform:
        """A copy of the strategy, for one adapter."""
        return deepcopy(self.strategy)

    @property
    def seed(self) -> int:
        """The seed of the run: a resumed one has another, and has to draw with that of its checkpoint."""
        return OTHER_SEED if self.resume else SEED

    @property
    def factor(self) -> float:
        """What the first weights are multiplied by: a resumed run has to take those of its checkpoint."""
        return 0.5 if self.resume else 1.0


class Tiny(nn.Module):
    """A tiny BERT without dropout; its forward pass returns the loss, and takes nothing but what a batch holds.

    Args:
        factor: What the first weights are multiplied by.
        **kwargs: The arguments of the next class in line.
    """

    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.mul_(factor)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": 4 * self.model(input_ids=input_ids, labels=labels).loss}


def new_optimizer(model: nn.Module) -> AdamW:
    return AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)


# ---------------------------------------------------------------- data
@cache
def _samples(world: int) -> list[Batch]:
    count, generator = world * MICRO_BATCHES * SIZE, torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCABULARY, (count, LENGTH), generator=generator)
    return [{"input_ids": line, "labels": line.sum() % 2} for line in tokens]


def loader(world: int) -> DataLoader[Batch]:
    """Return the micro-batches of all ranks, who take them in turns, as Accelerate does."""
    data: Any = _samples(world)  # a list is a dataset
    return DataLoader(data, batch_size=SIZE)


def micro_batches(job: Job) -> list[Batch]:
    """Return the micro-batches of a rank."""
    return list(loader(job.world))[job.rank :: job.world]


# ---------------------------------------------------------------- the loop written by hand
def by_hand(job: Job, *, short_by_itself: bool) -> Weights:
    """Train in a plain loop with an engine; return the weights.

    Args:
        job: The training, from the start.
        short_by_itself: Whether losses of the short last window are divided by the micro-batches in it, instead of
            those in a full one.
    """
    model, batches = Tiny(), micro_batches(job)
    optimizer = new_optimizer(model)
    called = DistributedDataParallel(model, find_unused_parameters=True) if job.world > 1 else model
    engine = GradientEngine(model, job.transform, wrapped_model=called, total_steps=TOTAL_STEPS, seed=SEED)
    engine.attach(optimizer)
    for step in range(TOTAL_STEPS):
        epoch, start = step // STEPS_PER_EPOCH, step % STEPS_PER_EPOCH * ACCUMULATE
        window = batches[start : start + ACCUMULATE]
        with engine.window(step, epoch=epoch):
            for index, batch in enumerate(window, start=1):
                with _synchronised(called, index == len(window)):
                    loss = called(**batch)["loss"] / (len(window) if short_by_itself else ACCUMULATE)
                    loss.backward()
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()
    return weights_of(model)


def _synchronised(model: nn.Module, whether: bool) -> AbstractContextManager[Any]:
    return nullcontext() if whether or not isinstance(model, DistributedDataParallel) else model.no_sync()


def weights_of(model: nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def difference(actual: Weights, expected: Weights) -> float:
    """Return the largest absolute difference of any weight; infinity for one that is undefined."""
    assert actual.keys() == expected.keys()
    largest = [(actual[name].double() - expected[name].double()).abs().max() for name in expected]
    return float(torch.stack(largest).max().nan_to_num(nan=inf))  # `max` of Python passes over nan
