"""Two processes: replicas stay the same bit for bit, and train as one process with both their batches does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .tasks import SEED, STRATEGIES, Regression, assert_same_weights, plain_loop, windows
from .two_processes import CASES, COMPUTED, SKIPPING

ROOT = Path(__file__).parents[2]
EXPECTED_SEEDS = {"the same": SEED, "differs": SEED, "none": 100}

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Train all cases in two processes, started once; return what each rank wrote down."""
    folder = tmp_path_factory.mktemp("ranks")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.lightning.two_processes", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return {name: [torch.load(folder / f"{name} {rank}.pt") for rank in range(2)] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_replicas_are_the_same(results: dict[str, list[dict[str, Any]]], name: str) -> None:
    first, second = results[name]
    assert not torch.equal(first["random"], second["random"])
    assert first["seed"] == second["seed"] == EXPECTED_SEEDS[CASES[name].seeding]
    assert_same_weights(second["weights"], first["weights"])


@pytest.mark.parametrize("name", CASES)
def test_replicas_train_as_one_process(results: dict[str, list[dict[str, Any]]], name: str) -> None:
    case, (result, _) = CASES[name], results[name]
    expected = windows(case.accumulate, case.accumulate)
    assert result["steps"] == len(expected)
    seed = EXPECTED_SEEDS[case.seeding]
    alone = plain_loop(Regression(), STRATEGIES[case.strategy], expected, seed=seed)
    torch.testing.assert_close(result["weights"], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_work_is_skipped_where_ddp_allows_it(results: dict[str, list[dict[str, Any]]], name: str) -> None:
    skipped = [result["skipped"] for result in results[name]]
    assert skipped[0] == skipped[1]
    assert (skipped[0] > 0) == (name in SKIPPING)
    assert not SKIPPING.keys() & COMPUTED.keys()


@pytest.mark.parametrize("name", [name for name in SKIPPING if "layers" in name])
def test_skipping_changes_no_bit(results: dict[str, list[dict[str, Any]]], name: str) -> None:
    computed = "accumulation of layers" if "accumulated" in name else "layers without the flag"
    assert_same_weights(results[name][0]["weights"], results[computed][0]["weights"])
