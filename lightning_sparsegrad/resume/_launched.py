"""Launched training processes, which end when their launcher is gone."""

import os
import threading
from collections.abc import Mapping
from time import sleep

_LAUNCHER = "SPARSEGRAD_LAUNCHER"  # in the environment of launched processes: the id of their launcher
_EVERY = 0.2  # seconds
_GRACE = 5.0  # seconds for a process to end by itself, for example with an error message


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether Lightning or torchrun launched this process for distributed training."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment
    return by_torchrun or ("NODE_RANK" in environment and environment.get("LOCAL_RANK", "0") != "0")


def end_with(parent: int, *, grace: float = 0.0) -> None:
    """End this process when its parent is gone.

    Args:
        parent: Id of the parent. If the current parent has another id, the parent is gone.
        grace: Seconds to wait after that.
    """
    threading.Thread(target=_watch, args=(parent, grace), daemon=True).start()


def end_with_launcher() -> None:
    """End this process some seconds after its launcher, if there is one; a second call does nothing."""
    global _watched  # of this process
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
