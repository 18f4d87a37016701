"""Measures all cells anew and records them, in a minute or two: `python -m tests.loops.same_weights.record`.

`python -m tests.generate` then writes the table.
"""

import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.launch import launch

from .cells import LOOPS, on_one_process, on_processes
from .table import Cell, Key, write
from .task import STRATEGIES


def measured(folder: Path) -> Iterator[tuple[Key, Cell]]:
    for index, (strategy, loop) in enumerate(product(STRATEGIES, LOOPS)):
        yield from on_one_process(strategy, loop, folder / f"{index}")
    launch("tests.loops.same_weights", 2, folder)
    yield from on_processes(folder, 2)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        write(measured(Path(folder)))
