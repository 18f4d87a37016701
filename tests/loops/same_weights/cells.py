"""The cells of the table: what each loop's weights differ by from those of the loop written by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from tests.launch import launch
from tests.lightning.tasks import Weights

from . import accelerate_loop, fabric_loop, lightning_loops, transformers_loops
from .task import RESUMES, STRATEGIES, Job, by_hand, difference

ACCUMULATION, RESUME, TWO_PROCESSES = CONDITIONS = ("accumulation", "resume", "two processes")


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


@cache
def by_hand_alone(strategy: str, *, short_by_itself: bool) -> Weights:
    """Return the weights of the loop written by hand, on one process."""
    return by_hand(Job(STRATEGIES[strategy], Path()), short_by_itself=short_by_itself)


def by_rank(folder: Path, rank: int, world: int) -> dict[tuple[str, str], tuple[Weights, Weights]]:
    """Return, by strategy and loop, the weights of one of several processes and those of the loop written by hand."""
    trained: dict[tuple[str, str], tuple[Weights, Weights]] = {}
    for name, strategy in STRATEGIES.items():
        job = Job(strategy, folder, rank=rank, world=world)
        plain = {short: by_hand(job, short_by_itself=short) for short in (False, True)}
        trained |= {(name, key): (loop.train(job), plain[loop.short_by_itself]) for key, loop in LOOPS.items()}
    return trained


class Cells:
    """All cells by condition, strategy and loop; each is measured when it is first asked for.

    Args:
        folder: An empty folder for checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._measured: dict[tuple[str, str, str], float] = {}
        self._launched = False

    def __getitem__(self, key: tuple[str, str, str]) -> float:
        """Return the largest absolute difference of any weight of any process."""
        if key not in self._measured:
            if key[0] == TWO_PROCESSES:
                self._measure_two_processes()
            else:
                self._measured[key] = self._on_one_process(*key)
        return self._measured[key]

    def _on_one_process(self, condition: str, strategy: str, loop: str) -> float:
        """Train from the start, or in new objects from the checkpoints of that run."""
        kind, job = LOOPS[loop], Job(STRATEGIES[strategy], self._folder / f"{strategy} {loop}")
        expected = by_hand_alone(strategy, short_by_itself=kind.short_by_itself)
        if condition == ACCUMULATION:
            return difference(kind.train(replace(job, saves=True)), expected)
        _ = self[ACCUMULATION, strategy, loop]  # it writes them
        return max(difference(kind.train(replace(job, resume=step)), expected) for step in RESUMES)

    def _measure_two_processes(self) -> None:
        """Compare each of two processes with the loop written by hand, and with the other one."""
        assert not self._launched, "two processes failed before"
        self._launched = True
        launch("tests.loops.same_weights", 2, self._folder)
        first, second = (torch.load(self._folder / f"{rank}.pt") for rank in range(2))
        for (strategy, loop), (weights, _) in first.items():
            pairs = (first[strategy, loop], second[strategy, loop], (weights, second[strategy, loop][0]))
            self._measured[TWO_PROCESSES, strategy, loop] = max(difference(*pair) for pair in pairs)
