"""OpenMP threads of torch: how many a process uses, and how they wait for each other."""

import os
import sys
from collections.abc import Mapping, MutableMapping

MOST_PASSIVE = 4
"""The largest number of threads that sleep while they wait.

A waiting thread that spins takes the core from a thread with work, and a step takes as long as its slowest thread: with
a thread on every core, one other busy process slows all of them. On many cores other processes seldom occupy every core
and waking many threads costs more, so there the threads spin, as by default.
"""

_COUNT = "OMP_NUM_THREADS"
_PASSIVE = {
    "OMP_WAIT_POLICY": "passive",
    # GNU's OpenMP, which torch uses on Linux: iterations that a thread spins before it sleeps. If it sleeps at once, a
    # step on two idle cores takes 1.2 times as long
    "GOMP_SPINCOUNT": "1000",
}
_SETTINGS = ("OMP_", "GOMP_", "KMP_")  # any OpenMP; GNU's; Intel's and LLVM's


def cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads sleep while they wait, if they are few; any OpenMP setting of the user wins.

    Call it before torch is imported: its runtime reads the environment then.

    Args:
        environment: The environment of this process, which its child processes inherit.
    """
    if not _is_set(environment) and cores() <= MOST_PASSIVE:
        environment.update(_PASSIVE)


def shared_by(jobs: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the OpenMP settings for each of several concurrent processes that share the cores.

    Args:
        jobs: The number of concurrent processes.
        environment: The environment of this process. If it sets the number of threads, nothing is returned.
    """
    if _COUNT in environment:
        return {}
    threads = max(1, cores() // jobs)
    passive = threads <= MOST_PASSIVE and not _is_set(environment)
    return {_COUNT: str(threads), **(_PASSIVE if passive else {})}


def _is_set(environment: Mapping[str, str]) -> bool:
    return any(name.startswith(_SETTINGS) for name in environment)
