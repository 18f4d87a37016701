"""The work of several processes for the tests of DDP and FSDP2: cases by name, and the result of each rank."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

Case = Callable[[DeviceMesh, Path], Any]  # a folder that all ranks share; what it returns is written down

CASES: dict[str, Case] = {}  # test_ddp.py and the tests of FSDP2 add theirs
LONG: set[str] = set()  # cases that two processes leave to four
SHORT: set[str] = set()  # cases that four processes leave to two


def case(function: Case) -> Case:
    """Add a function to the cases, by its name."""
    CASES[function.__name__] = function
    return function


def cases_on(count: int) -> Sequence[str]:
    """Return which cases some processes run."""
    return [name for name in CASES if name not in (LONG if count == 2 else SHORT)]


class Results:
    """The results that the processes wrote down: by case, that of each rank.

    Args:
        folder: Where.
        count: Number of processes.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._read: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._read:
            self._read[name] = [torch.load(self.folder / f"{name} {rank}.pt") for rank in range(self.count)]
        return self._read[name]
