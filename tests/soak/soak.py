"""The loop over random trainings, and what it counts."""

import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from time import monotonic

import torch

from tests.soak.configurations import draw_configuration
from tests.soak.fits import check_fit, draw_fit, seeded_and_quiet
from tests.soak.loop import Loop
from tests.soak.memory import Memory
from tests.soak.twin import Twin

FIT_EVERY = 4  # of how many trainings one is followed by fits under a Trainer
SAMPLE_EVERY = 10  # trainings between samples of the memory


@dataclass
class Summary:
    """The summary of a soak.

    Attributes:
        failures: What failed, each with the arguments by which it comes again.
    """

    seed: int
    configurations: int = 0
    fits: int = 0
    windows: int = 0
    stops: int = 0
    overflows: int = 0
    refusals: int = 0
    comparisons: int = 0
    seconds: float = 0.0
    memory: Memory = field(default_factory=Memory)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.seconds / 60:.1f} min, seed {self.seed}: {self.configurations} configurations, {self.fits} fits, "
            f"{self.windows} windows, {self.stops} stops, {self.overflows} overflows, {self.refusals} refusals, "
            f"{self.comparisons} comparisons; memory at most {self.memory.peak:.0f} MiB, {self.memory}; "
            f"{len(self.failures)} failures"
        )


Check = Callable[[int, Summary], None]


def check_training(index: int, summary: Summary) -> None:
    """Hold every window of a training to the reference, and its end to that of the training without its stops."""
    configuration = draw_configuration(summary.seed, index)
    twin = Twin(configuration)
    loop = Loop(configuration, twin)
    try:
        weights = loop.train()
    finally:
        summary.windows += loop.counts.windows
        summary.stops += loop.counts.stops
        summary.overflows += loop.counts.overflows
        summary.refusals += loop.counts.refusals
        summary.comparisons += twin.comparisons
    if loop.counts.stops:
        whole = Loop(configuration.without_stops()).train()
        for name, weight in weights.items():
            assert torch.equal(weight, whole[name]), f"{name} differs from that of a training without stops"
            summary.comparisons += 1


def soak(
    seed: int,
    indices: Iterable[int] | None = None,
    *,
    minutes: float = inf,
    most_failures: int = 20,
    say: Callable[[str], None],
) -> Summary:
    """Train until the time is over, or all indices are done.

    Args:
        seed: Seed of everything.
        indices: Which trainings; all from 0 on by default.
        minutes: Time limit.
        most_failures: Failures after which it gives up.
        say: Where progress and failures go.
    """
    summary, start = Summary(seed), monotonic()
    reported = start
    for index in count() if indices is None else indices:
        if monotonic() - start > 60 * minutes or len(summary.failures) >= most_failures:
            break
        _check(check_training, index, summary, say)
        summary.configurations += 1
        if index % FIT_EVERY == 0:
            _check(_check_fits, index, summary, say)
        summary.seconds = monotonic() - start
        if summary.configurations % SAMPLE_EVERY == 0:
            summary.memory.sample(summary.windows)
        if monotonic() - reported > 60:
            reported = monotonic()
            _fail(summary.memory.piled_up(), summary, say)
            say(str(summary))
    _fail(summary.memory.piled_up(), summary, say)
    _fail(summary.memory.failure(), summary, say)
    return summary


def _check_fits(index: int, summary: Summary) -> None:
    with seeded_and_quiet():
        fit = draw_fit(summary.seed, index)
        summary.windows += check_fit(fit)
    summary.fits += 1
    summary.stops += 1


def _check(check: Check, index: int, summary: Summary, say: Callable[[str], None]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(index, summary)
    except Exception as error:  # whatever it is, the soak goes on
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:600]} ({frame.filename}:{frame.lineno})"
        _fail(f"--seed {summary.seed} --only {index}: {reason}", summary, say)


def _fail(reason: str | None, summary: Summary, say: Callable[[str], None]) -> None:
    if reason is not None:
        summary.failures.append(reason)
        say(f"FAILED {reason}")
