"""Every loop adapter gives the weights of a loop written by hand, bit for bit, on one process."""

from itertools import combinations, product
from pathlib import Path

import pytest

from lightning_sparsegrad import Identity
from tests.cases import cases
from tests.lightning.conftest import run_of_its_own

from .cells import CONDITIONS, LOOPS, on_one_process
from .table import read
from .task import STRATEGIES, Job, by_hand, difference

__all__ = ["run_of_its_own"]

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")

STALE = "run `python -m tests.loops.same_weights.record`, then `python -m tests.generate`"


def test_no_recorded_weight_differs() -> None:
    recorded = read()
    assert {*recorded} == {*product(CONDITIONS, STRATEGIES, LOOPS)}, STALE
    assert not [key for key, cell in recorded.items() if isinstance(cell, float) and cell != 0.0]


@cases("loop", LOOPS)
def test_an_adaptive_clip_trains_the_weights_of_the_loop_by_hand(loop: str, tmp_path: Path) -> None:
    _, cell = next(on_one_process("`AutoClip`", loop, tmp_path))
    assert cell == 0.0


@pytest.mark.long
@pytest.mark.parametrize("loop", LOOPS)
@cases("strategy", STRATEGIES)
def test_weights_are_as_recorded(strategy: str, loop: str, tmp_path: Path) -> None:
    for key, cell in on_one_process(strategy, loop, tmp_path):
        assert cell == read()[key], STALE


@pytest.mark.long
def test_strategies_train_weights_of_their_own() -> None:
    runs = [by_hand(Job(each, Path()), short_by_itself=False) for each in (Identity(), *STRATEGIES.values())]
    assert all(difference(one, other) > 1e-3 for one, other in combinations(runs, 2))
