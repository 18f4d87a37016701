"""Processes that another one has launched to train together: they end when it is gone."""

import os
import threading
from collections.abc import Mapping
from time import sleep

_LAUNCHER = "SPARSEGRAD_LAUNCHER"  # the process that may launch others, whose environment has it
_EVERY = 0.2  # seconds
_GRACE = 5.0  # seconds that a process may take to end by itself, as with an error that says what has happened


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether Lightning or torchrun has started this process to train together with others."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment
    return by_torchrun or ("NODE_RANK" in environment and environment.get("LOCAL_RANK", "0") != "0")


def end_with(parent: int, *, grace: float = 0.0) -> None:
    """End this process when its parent is gone.

    Args:
        parent: The parent's id. If it is another one already, the parent is gone.
        grace: The seconds from then on.
    """
    threading.Thread(target=_watch, args=(parent, grace), daemon=True).start()


def end_with_launcher() -> None:
    """End this process some seconds after the one that has launched it, if there is one; a second time does nothing."""
    global _watched  # of the process
    if not is_launched():
        os.environ[_LAUNCHER] = str(os.getpid())
    elif _watched != os.getpid():
        _watched = os.getpid()
        by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        parent = os.getppid() if by_torchrun else int(os.environ.get(_LAUNCHER, os.getppid()))
        end_with(parent, grace=_GRACE if parent == os.getppid() else 0)


_watched = 0


def _watch(parent: int, grace: float) -> None:
    while os.getppid() == parent:
        sleep(_EVERY)
    sleep(grace)
    os._exit(1)
