"""SIGKILL at any moment leaves only whole checkpoints, and the runs after it come to what an undisturbed run comes to.

`RESUME_KILLS=200 pytest -s tests/resume/test_kills.py` kills more often, and prints how often.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.resume.kills import STEPS
from tests.resume.runs import THOROUGH, assert_same_bits

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("RESUME_KILLS", "40" if THOROUGH else "3"))
OF_THE_RUN = {"callbacks", "lightning_sparsegrad_config", "until then"}  # where its files are, when it began

pytestmark = [pytest.mark.resume, pytest.mark.timeout(120 + 15 * KILLS)]


def contents(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, but for what is of one run alone."""
    checkpoint = torch.load(path, weights_only=True)
    for process in checkpoint["exact_resume"]["processes"]:
        del process["counters"]["checkpoints"]  # with the folders of the run
    return {name: value for name, value in checkpoint.items() if name not in OF_THE_RUN}


def test_killed_runs_come_to_the_same(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.resume.kills", str(tmp_path), str(KILLS), "0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = "\n".join(path.read_text()[-3000:] for path in tmp_path.glob("*/output.txt"))
    assert done.returncode == 0, done.stderr[-3000:] + output
    _, *results = json.loads(done.stdout)
    counts = {name: sum(result[name] for result in results) for name in ("kills", "while writing", "loaded")}
    print(counts)  # noqa: T201  # for `pytest -s`
    assert counts["kills"] == KILLS
    assert counts["while writing"] > 0 or KILLS < 20  # a few may all come just after
    whole = tmp_path / "whole" / "checkpoints"
    for number, result in enumerate(results, start=1):
        killed = tmp_path / f"killed {number}" / "checkpoints"
        assert result["steps"] == STEPS
        for path in whole.iterdir():
            assert_same_bits(contents(killed / path.name), contents(path), path.name)
