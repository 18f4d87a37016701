"""Interleaved timing: every repeat runs every arm, in an order drawn anew, so that drift falls on all alike."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter

import torch

Samples = dict[str, dict[str, list[float]]]
"""Arm to section to seconds, one number per repeat."""


class Clock:
    """Times named sections of one run, which may nest.

    On an accelerator a section lies between two events in its stream, and the host waits before and after the whole
    run only: waiting inside would slow down the section around it.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        if self._cuda:
            torch.cuda.synchronize()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time the block; a name that comes again adds up."""
        if self._cuda:
            start, end = _event(), _event()
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        before = perf_counter()
        yield
        self._add(name, perf_counter() - before)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every section, once the device has done its work."""
        if self._cuda:
            torch.cuda.synchronize()
        for name, start, end in self._events:
            self._add(name, start.elapsed_time(end) / 1e3)
        self._events = []
        return self._seconds

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch ships it without types


@dataclass(frozen=True)
class Arm:
    """One thing to time.

    Args:
        name: Unique among the arms it is timed with.
        group: What it belongs to, for the plot: `"ours"`, `"torch"`, `"naive"` or `"peer"`.
        run: Called with a clock; what lies outside its sections is not timed.
        rounds: How often each repeat runs it; its number for the repeat is the mean.
    """

    name: str
    group: str
    run: Callable[[Clock], None]
    rounds: int = 1


def interleave(arms: Sequence[Arm], *, repeats: int, device: torch.device, warmups: int = 1, seed: int = 0) -> Samples:
    """Run every arm in every repeat, in shuffled order.

    Args:
        arms: What to time.
        repeats: How often.
        device: Where the work runs.
        warmups: Runs of every arm before, untimed: they compile, and fill caches and allocators.
        seed: Seed of the orders.

    Returns:
        The seconds of every arm's sections, one number per repeat.
    """
    generator = torch.Generator().manual_seed(seed)
    for arm in arms:
        for _ in range(warmups):
            arm.run(Clock(device))
    slots = [arm for arm in arms for _ in range(arm.rounds)]
    samples: Samples = {arm.name: {} for arm in arms}
    for _ in range(repeats):
        found: dict[str, dict[str, list[float]]] = {arm.name: {} for arm in arms}
        for index in torch.randperm(len(slots), generator=generator).tolist():
            clock = Clock(device)
            slots[index].run(clock)
            for section, seconds in clock.seconds().items():
                found[slots[index].name].setdefault(section, []).append(seconds)
        for name, sections in found.items():
            for section, values in sections.items():
                samples[name].setdefault(section, []).append(fmean(values))
    return samples
