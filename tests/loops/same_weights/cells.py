"""The cells of the table: how far the weights of each loop are from those of the loop written by hand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from lightning_sparsegrad import ConfigurationError
from tests.lightning.tasks import Weights

from . import accelerate_loop, fabric_loop, lightning_loops, transformers_loops
from .table import Cell, Key
from .task import RESUMES, STRATEGIES, Job, by_hand, difference

Run = Weights | str  # the weights after a run, or the words of its refusal

ACCUMULATION, RESUME, TWO_PROCESSES = CONDITIONS = (
    "Gradient accumulation, with a short last window in each of two epochs",
    "Resume from checkpoints inside an epoch",
    "Two processes, each with its own data, and gradient accumulation",
)
FIRST_WORDS = 80  # characters of a refusal


@dataclass(frozen=True)
class Loop:
    """A loop through an adapter.

    Attributes:
        train: Does a job; returns the weights.
        short_by_itself: What the losses of a short window are divided by, see `by_hand`.
    """

    train: Callable[[Job], Weights]
    short_by_itself: bool = False


LOOPS: Mapping[str, Loop] = {
    "Lightning module": Loop(lightning_loops.by_module),
    "Lightning callback": Loop(lightning_loops.by_callback),
    "TransformersCallback": Loop(transformers_loops.by_callback, short_by_itself=True),
    "TransformersMixin": Loop(transformers_loops.by_mixin, short_by_itself=True),
    "AccelerateAdapter": Loop(accelerate_loop.train),
    "FabricAdapter": Loop(fabric_loop.train),
}


def on_one_process(strategy: str, loop: str, folder: Path) -> Iterator[tuple[Key, Cell]]:
    """Yield the cells of a strategy in a loop, on one process.

    The first run writes its checkpoints into the folder; from them, objects that are new resume.
    """
    train, job = LOOPS[loop].train, Job(STRATEGIES[strategy], folder)
    expected = _alone(strategy, LOOPS[loop].short_by_itself)
    whole = _run(train, replace(job, saves=True))
    yield (ACCUMULATION, strategy, loop), _far([whole], [expected])
    resumed = [whole if isinstance(whole, str) else _run(train, replace(job, resume=step)) for step in RESUMES]
    yield (RESUME, strategy, loop), _far(resumed, [expected] * len(resumed))


@cache
def _alone(strategy: str, short_by_itself: bool) -> Weights:
    return by_hand(Job(STRATEGIES[strategy], Path()), short_by_itself=short_by_itself)


def by_a_rank(job: Job) -> dict[str | bool, Run]:
    """Return what one of several processes trains, by loop; by hand under both values of `short_by_itself`."""
    plain: dict[str | bool, Run] = {short: by_hand(job, short_by_itself=short) for short in (False, True)}
    return plain | {name: _run(loop.train, job) for name, loop in LOOPS.items()}


def on_processes(folder: Path, world: int) -> Iterator[tuple[Key, Cell]]:
    """Yield the cells of several processes, which wrote what `by_a_rank` returns for each strategy into a folder.

    Each rank is compared with itself in the loop written by hand, and with the rank before it.
    """
    ranks: list[list[dict[str | bool, Run]]] = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    for strategy, *runs in zip(STRATEGIES, *ranks, strict=True):
        for name, loop in LOOPS.items():
            expected = [run[loop.short_by_itself] for run in runs]
            actual = [run[name] for run in runs]
            yield (TWO_PROCESSES, strategy, name), _far([*actual, *actual[1:]], [*expected, *actual[:-1]])


def _run(train: Callable[[Job], Weights], job: Job) -> Run:
    try:
        return train(job)
    except ConfigurationError as error:
        return f"{type(error).__name__}: {str(error)[:FIRST_WORDS]}"


def _far(actual: Sequence[Run], expected: Sequence[Run]) -> Cell:
    """Return the largest difference of any weight in any pair of runs, or the first refusal."""
    farthest = 0.0
    for one, other in zip(actual, expected, strict=True):
        if isinstance(one, str) or isinstance(other, str):
            return one if isinstance(one, str) else str(other)
        farthest = max(farthest, difference(one, other))
    return farthest
