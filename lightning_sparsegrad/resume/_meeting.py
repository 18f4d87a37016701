"""Agreement of several processes to stop within a validation, in which each may be at another batch."""

from itertools import count
from signal import Signals
from time import monotonic, sleep
from typing import Any

from lightning_sparsegrad.resume._stopping import Stopping
from lightning_sparsegrad.resume._torch import store_of_processes

_EVERY = 0.5  # seconds between two checks for a signal in another process
_PATIENCE = 2.0  # seconds to wait for the others, which may be in a batch or wait for it
_TRIES = 4
_SIGNUM, _STOP, _CONTINUE = "signum", "stop", "continue"
_NUMBERS = count()  # of the validations, equal in all processes


class Meeting:
    """A meeting point of processes between two batches of a validation, through the store of their group.

    They stop if all arrive. If one does not, it may be waiting for those that have arrived, in a batch that they all
    work on: then they continue, and meet again before the next batch. No collective is used, since the others may have
    no batch left.

    Args:
        processes: Number of processes.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._store: Any = None  # only in builds of torch that have one
        if processes > 1:
            self._store = store_of_processes(f"lightning_sparsegrad/validation/{next(_NUMBERS)}")
        self._try = 0
        self._next_look = 0.0
        self._has_shared = False

    @property
    def is_given_up(self) -> bool:
        return self._try >= _TRIES

    def is_requested(self, stopping: Stopping) -> bool:
        """Return whether this process or another one has received a signal."""
        if self._store is not None and stopping.signum and not self._has_shared:
            self._store.set(_SIGNUM, str(int(stopping.signum)))
            self._has_shared = True
        elif self._store is not None and not stopping.signum and monotonic() > self._next_look:
            self._next_look = monotonic() + _EVERY
            if self._store.check([_SIGNUM]):
                stopping.signum, self._has_shared = Signals(int(self._store.get(_SIGNUM))), True
        return stopping.signum is not None

    def all_stop(self) -> bool:
        """Return whether all processes stop now; otherwise they continue the validation."""
        if self._store is None:
            return True
        until = monotonic() + _PATIENCE
        while not self.is_given_up:
            decision, arrived = f"{self._try} decision", self._store.add(f"{self._try} arrived", 1)
            if arrived == self._processes:
                self._store.compare_set(decision, "", _STOP)
            while not self._store.check([decision]) and monotonic() < until:
                sleep(0.01)
            is_late = monotonic() >= until
            if self._store.compare_set(decision, "", _CONTINUE) == _STOP.encode():
                return True
            self._try += 1
            if is_late:
                return False  # the others may be waiting for this process in a batch
        return False
