"""A command that is stopped at any moment, in any way, ends at once, leaves nothing, and is resumed exactly.

`RESUME_KILLS=200 pytest -s tests/resume/test_kills.py` stops more often, and prints the results; `RESUME_KILLS_SEED=1`
chooses other moments.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.resume.runs import THOROUGH

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("RESUME_KILLS", "28" if THOROUGH else "6"))
SEED = os.environ.get("RESUME_KILLS_SEED", "0")

pytestmark = [pytest.mark.resume, pytest.mark.long, pytest.mark.timeout(120 + 15 * KILLS)]


def test_commands_that_are_stopped_come_to_the_same(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.resume.kills", str(tmp_path), str(KILLS), SEED],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == KILLS
    for name in ("family", "signal", "target", "moment"):
        print(name, Counter((kill[name], "faulty" if kill["faults"] else "exact") for kill in kills))  # noqa: T201
    outputs = {kill["where"]: (tmp_path / kill["where"] / "output.txt").read_text() for kill in kills if kill["faults"]}
    assert not [kill for kill in kills if kill["faults"]], outputs
