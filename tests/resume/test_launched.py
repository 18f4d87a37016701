"""A signal to processes that the command line launched, or to it alone: none of them outlives the others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import DROP, LABELLED, QUICK, READER, SAVE
from tests.launch import ROOT

pytestmark = [pytest.mark.resume, pytest.mark.distributed, pytest.mark.long]


@pytest.mark.parametrize(
    ("to", "signum", "status"),
    [("group", signal.SIGTERM, 143), ("group", signal.SIGINT, 130), ("launcher", signal.SIGKILL, -9)],
)
def test_none_that_was_launched_outlives_the_others(
    to: str, signum: signal.Signals, status: int, tmp_path: Path
) -> None:
    arguments = [argument for argument in QUICK if "max_epochs" not in argument]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lightning_sparsegrad", "fit", READER, LABELLED, *DROP, *arguments, SAVE),
            *("--trainer.max_epochs=-1", "--trainer.devices=2", "--trainer.strategy=ddp"),
            f"--trainer.default_root_dir={tmp_path}",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as of a shell's foreground
        text=True,
    )
    until = time.monotonic() + 100
    while not list(tmp_path.rglob("*.ckpt")) and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(process.pid, signum) if to == "launcher" else os.killpg(process.pid, signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert signum == signal.SIGKILL or "resume with sparsegrad fit --ckpt_path" in errors
    until = time.monotonic() + 60
    while _is_there(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _is_there(process.pid)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
