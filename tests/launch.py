"""Starts a module of the tests in several processes that talk to each other over gloo, as `torchrun` does.

They are forks of one process, which imports the module first: importing costs more than most of what they do.
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
from fcntl import LOCK_EX, flock
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported without a word to mypy

ROOT = Path(__file__).parents[1]


def launch(module: str, count: int, folder: Path, *, seconds: int = 280) -> None:
    """Run a module in some processes, with a folder as its argument, where each writes down what came of it."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, module, str(count), str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]


def launched(module: str, count: int, factory: pytest.TempPathFactory) -> Path:
    """Run a module as `launch` does, once for all tests and all workers of pytest-xdist; return the folder."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{module}-{count}"
    folder.mkdir(exist_ok=True)
    report = folder / "outcome"
    with (folder / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not report.exists():
            report.write_text("is not known, it was interrupted")
            try:
                launch(module, count, folder)
            except AssertionError as error:
                report.write_text(str(error))
            else:
                report.write_text("")
    assert not report.read_text(), f"{module} on {count} processes: {report.read_text()}"
    return folder


def main(module: str, count: int, folder: str) -> int:
    """Fork a process per rank; return the first status that is not 0, once the others are ended."""
    torch.set_num_threads(1)
    import_module(module)
    listening = socket.create_server(("127.0.0.1", 0))
    _, port = listening.getsockname()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    os.environ |= {**address, **group, "TORCHELASTIC_RUN_ID": module, "TORCHELASTIC_RESTART_COUNT": "0"}
    ranks: set[int] = set()
    for rank in range(count):
        process = os.fork()
        if not process:
            listening.close()
            return _run(module, folder, rank)
        ranks.add(process)
    # its threads would not outlive a fork
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    status = 0
    while ranks:
        process, ended = os.wait()
        ranks.discard(process)
        if ended and not status:
            status = abs(os.waitstatus_to_exitcode(ended))
            for other in ranks:
                os.kill(other, signal.SIGTERM)
    del store
    return status


def _run(module: str, folder: str, rank: int) -> int:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    setattr(rank_zero_only, "rank", rank)  # noqa: B010  # read at import, before there were ranks
    np.random.seed()  # as of a process of its own; those of Python do so themselves
    sys.argv = [module, folder]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
