"""OpenMP threads of torch: how many a process takes, and how they wait for each other."""

import os
import sys
from collections.abc import Mapping, MutableMapping

MOST_PASSIVE = 4
"""The most threads that wait asleep.

A thread that spins while it waits takes the core from another that has work, and a step takes as long as its slowest
thread: with a thread on each core, one other busy process is enough. Where there are many cores somebody else's process
is seldom on each of them, and to wake many threads costs more: there they spin, as by default.
"""

_COUNT = "OMP_NUM_THREADS"
_PASSIVE = {
    "OMP_WAIT_POLICY": "passive",
    # of GNU's OpenMP, which torch has on Linux: turns of a loop before a thread sleeps. Where it sleeps at once, a step
    # on two quiet cores takes 1.2 times as long
    "GOMP_SPINCOUNT": "1000",
}
_SETTINGS = ("OMP_", "GOMP_", "KMP_")  # of any OpenMP, of GNU's, of Intel's and LLVM's


def cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP threads sleep while they wait, where they are few; whatever the user has set of OpenMP stays.

    It works before torch is imported, whose runtime reads the environment then.

    Args:
        environment: That of this process, which others that it starts inherit.
    """
    if not _is_set(environment) and cores() <= MOST_PASSIVE:
        environment.update(_PASSIVE)


def shared_by(jobs: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the settings of each of several processes at a time, which share the cores; none where the user has some.

    Args:
        jobs: How many processes there are at a time.
        environment: That of this process.
    """
    if _COUNT in environment:
        return {}
    threads = max(1, cores() // jobs)
    passive = threads <= MOST_PASSIVE and not _is_set(environment)
    return {_COUNT: str(threads), **(_PASSIVE if passive else {})}


def _is_set(environment: Mapping[str, str]) -> bool:
    return any(name.startswith(_SETTINGS) for name in environment)
