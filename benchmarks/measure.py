"""Interleaved timing, in which every repeat runs every arm in a new random order, so that drift affects all alike."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter

import torch

Samples = dict[str, dict[str, list[float]]]
"""Arm to section to seconds, one number per repeat."""


class Clock:
    """A clock of named sections of one run, which may nest.

    On an accelerator, a section is measured between two events in its stream, and the host waits only before and after
    the whole run: waiting inside would slow down the enclosing section. By the host, it waits before each section, so
    that only the innermost one is of use.

    Args:
        device: The device of the work.
        by_host: Measure when the host has submitted the work, rather than when the device has done it.
    """

    def __init__(self, device: torch.device, *, by_host: bool = False) -> None:
        self._cuda = device.type == "cuda" and not by_host
        self._waits = device.type == "cuda" and by_host
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        if device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time a block; blocks of the same name add up."""
        if self._cuda:
            start, end = _event(), _event()
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        if self._waits:  # work that is queued already would fill the queue, and the host would wait for room in it
            torch.cuda.synchronize()
        before = perf_counter()
        yield
        self._add(name, perf_counter() - before)

    def seconds(self) -> dict[str, float]:
        """Wait for the device, and return the seconds of every section."""
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
    """A function to time.

    Args:
        name: Its name, unique among the arms that are timed together.
        group: Its group in the plot: `"ours"`, `"torch"`, `"naive"` or `"peer"`.
        run: A function of a clock; only the clock's sections are timed.
        rounds: The number of runs in each repeat, over which the mean is taken.
    """

    name: str
    group: str
    run: Callable[[Clock], None]
    rounds: int = 1


def interleave(
    arms: Sequence[Arm],
    *,
    repeats: int,
    device: torch.device,
    warmups: int = 1,
    seed: int = 0,
    by_host: bool = False,
) -> Samples:
    """Run every arm in every repeat, in shuffled order.

    Args:
        arms: The arms.
        repeats: The number of repeats.
        device: The device of the work.
        warmups: Untimed runs of every arm beforehand, which compile and fill caches and allocators.
        seed: The seed of the orders.
        by_host: As for `Clock`.

    Returns:
        The seconds of every arm's sections, one number per repeat.
    """
    generator = torch.Generator().manual_seed(seed)
    for arm in arms:
        for _ in range(warmups):
            arm.run(Clock(device, by_host=by_host))
    slots = [arm for arm in arms for _ in range(arm.rounds)]
    samples: Samples = {arm.name: {} for arm in arms}
    for _ in range(repeats):
        in_repeat: dict[str, dict[str, list[float]]] = {arm.name: {} for arm in arms}
        for index in torch.randperm(len(slots), generator=generator).tolist():
            clock = Clock(device, by_host=by_host)
            slots[index].run(clock)
            for section, seconds in clock.seconds().items():
                in_repeat[slots[index].name].setdefault(section, []).append(seconds)
        for name, sections in in_repeat.items():
            for section, values in sections.items():
                samples[name].setdefault(section, []).append(fmean(values))
    return samples
