"""Every adapter gives the weights of a loop written by hand, bit for bit."""

from itertools import combinations
from math import inf, nan
from pathlib import Path

import pytest
import torch

from lightning_sparsegrad import Identity
from tests.cases import cases
from tests.generate import written
from tests.lightning.conftest import run_of_its_own

from .cells import ACCUMULATION, CONDITIONS, LOOPS, RESUME, Cells
from .table import GUIDE, lines
from .task import STRATEGIES, Job, by_hand, difference

__all__ = ["run_of_its_own"]

# Lightning would have a resumed run write checkpoints too
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    return Cells(tmp_path_factory.mktemp("checkpoints"))


@cases("loop", ["Lightning callback", "AccelerateAdapter", "FabricAdapter"])
def test_a_clip_that_learns_and_resumes_gives_the_same_weights(loop: str, cells: Cells) -> None:
    assert [cells[condition, "AutoClip", loop] for condition in (ACCUMULATION, RESUME)] == [0.0, 0.0]


def test_an_undefined_weight_is_a_difference() -> None:
    weights = {"first": torch.zeros(2), "second": torch.zeros(2)}
    assert difference({**weights, "second": torch.tensor([0.0, nan])}, weights) == inf


@pytest.mark.long
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_weight_differs(condition: str, strategy: str, loop: str, cells: Cells) -> None:
    assert cells[condition, strategy, loop] == 0.0


@pytest.mark.long
def test_the_table_holds_what_is_measured(cells: Cells) -> None:
    assert GUIDE.read_text() == written(GUIDE, lines(cells)), "stale: run `python -m tests.generate --measure`"


@pytest.mark.long
def test_strategies_train_weights_of_their_own() -> None:
    runs = [by_hand(Job(each, Path()), short_by_itself=False) for each in (Identity(), *STRATEGIES.values())]
    assert all(difference(one, other) > 1e-3 for one, other in combinations(runs, 2))
