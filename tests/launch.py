"""Starts a module of the tests in several processes that talk to each other over gloo."""

import os
import subprocess
import sys
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def launch(module: str, count: int, folder: Path) -> None:
    """Run a module in some processes, with a folder as its argument, where each writes down what came of it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [*launcher, "-m", module, str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]


def launched(module: str, count: int, factory: pytest.TempPathFactory) -> Path:
    """Run a module as `launch` does, once for all tests and all workers of pytest-xdist; return the folder."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{module}-{count}"
    folder.mkdir(exist_ok=True)
    outcome = folder / "outcome"
    with (folder / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not outcome.exists():
            outcome.write_text("is not known, it was interrupted")
            try:
                launch(module, count, folder)
            except AssertionError as error:
                outcome.write_text(str(error))
            else:
                outcome.write_text("")
    assert not outcome.read_text(), f"{module} on {count} processes: {outcome.read_text()}"
    return folder
