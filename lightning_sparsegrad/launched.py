"""Processes that another one has launched to train together: they end when it is gone."""

import os
from collections.abc import Mapping
from threading import Thread
from time import sleep

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
    Thread(target=_watch, args=(parent, grace), daemon=True).start()


def end_with_launcher() -> None:
    """End this process some seconds after the one that has launched it, if there is one; a second time does nothing."""
    global _watched  # of the process
    if is_launched() and _watched != os.getpid():
        _watched = os.getpid()
        end_with(os.getppid(), grace=_GRACE)


_watched = 0


def _watch(parent: int, grace: float) -> None:
    while os.getppid() == parent:
        sleep(_EVERY)
    sleep(grace)
    os._exit(1)
