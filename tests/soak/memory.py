"""A check that nothing piles up: resident memory, engines, threads."""

import ctypes
import gc
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage
from statistics import linear_regression

from lightning_sparsegrad import GradientEngine

MEBIBYTE = 1 << 20
GROWTH = 1.0  # mebibytes per 1,000 windows that are allowed: the allocator's own disorder takes a third of it
BLOCKS = 500  # objects of Python per 1,000 windows that are allowed
WARM = 2000  # windows until caches are full, and again until a slope says something
_STATM = Path("/proc/self/statm")


def resident() -> float:
    """Return the resident memory in mebibytes; where the system does not tell it, its peak."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * getpagesize() / MEBIBYTE
    return getrusage(RUSAGE_SELF).ru_maxrss / 1024


def settle() -> None:
    """Give back what is not used: garbage, and what the allocator keeps of it."""
    gc.collect()
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library has it
    if give_back is not None:
        give_back(0)


def live_engines() -> int:
    """Count the engines that something still holds."""
    gc.collect()
    return sum(issubclass(type(each), GradientEngine) for each in gc.get_objects())


@dataclass
class Memory:
    """Samples of a running soak.

    Attributes:
        samples: Windows so far, resident mebibytes, and blocks that Python has allocated.
    """

    samples: list[tuple[int, float, int]] = field(default_factory=list)
    engines: int = field(default_factory=live_engines)
    threads: int = field(default_factory=threading.active_count)

    def sample(self, windows: int) -> None:
        """Take a sample, between trainings."""
        settle()
        self.samples.append((windows, resident(), sys.getallocatedblocks()))

    def piled_up(self) -> str | None:
        """Return what has piled up, if something has; asked between trainings."""
        engines, threads = live_engines() - self.engines, threading.active_count() - self.threads
        if engines > 0:
            return f"{engines} engines are alive although no training is"
        return f"{threads} threads are left" if threads > 0 else None

    @property
    def peak(self) -> float:
        return max((size for _, size, _ in self.samples), default=resident())

    @property
    def slopes(self) -> tuple[float, float] | None:
        """Growth in mebibytes and blocks per 1,000 windows since caches were filled; `None` if too short to tell."""
        warm = [sample for sample in self.samples if sample[0] >= WARM]
        if len(warm) < 3 or warm[-1][0] < 2 * WARM:
            return None
        windows, sizes, blocks = zip(*warm, strict=True)
        return 1000 * linear_regression(windows, sizes).slope, 1000 * linear_regression(windows, blocks).slope

    def failure(self) -> str | None:
        """Return what is wrong with the growth, if something is."""
        if self.slopes is None or (self.slopes[0] <= GROWTH and self.slopes[1] <= BLOCKS):
            return None
        return f"memory grows by {self}, where {GROWTH} MiB and {BLOCKS} blocks are allowed"

    def __str__(self) -> str:
        if self.slopes is None:
            return "too short to tell"
        return f"{self.slopes[0]:+.3f} MiB and {self.slopes[1]:+.0f} blocks per 1,000 windows"
