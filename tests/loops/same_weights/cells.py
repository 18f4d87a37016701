"""The cells of the table: what each loop's weights differ by from those of the loop written by hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from lightning_sparsegrad import ConfigurationError
from tests.lightning.tasks import Weights

from . import accelerate_loop, fabric_loop, lightning_loops, transformers_loops
from .task import RESUMES, Job, by_hand, difference


@dataclass(frozen=True)
class Loop:
    """A loop through an adapter.

    Attributes:
        train: Does a job; returns the weights.
        short_by_itself: What the losses of a short window are divided by, see `by_hand`.
    """

    train: Callable[[Job], Weights]
    short_by_itself: bool = False


LOOPS = {
    "Lightning module": Loop(lightning_loops.by_module),
    "Lightning callback": Loop(lightning_loops.by_callback),
    "TransformersCallback": Loop(transformers_loops.by_callback, short_by_itself=True),
    "TransformersMixin": Loop(transformers_loops.by_mixin, short_by_itself=True),
    "AccelerateAdapter": Loop(accelerate_loop.train),
    "FabricAdapter": Loop(fabric_loop.train),
}


def accumulation(loop: Loop, job: Job) -> float:
    """Train from the start, with a short last window in each epoch, and write checkpoints."""
    return _difference(loop, replace(job, saves=True))


def resumption(loop: Loop, job: Job) -> float:
    """Resume from checkpoints inside each epoch, which `accumulation` wrote, in objects that are new."""
    return max(_difference(loop, replace(job, resume=step)) for step in RESUMES)


def _difference(loop: Loop, job: Job) -> float:
    return difference(loop.train(job), expected(job.strategy, loop.short_by_itself))
