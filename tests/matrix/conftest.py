"""Every test here is a run of its own, as those of the doors are, with the seed of the golden rows."""

import pytest

from tests.launch import launched
from tests.lightning.conftest import run_of_its_own
from tests.matrix.ranks import Results
from tests.transforms.small import SEED

__all__ = ["run_of_its_own"]


@pytest.fixture(autouse=True)
def seed_of_the_golden_rows(run_of_its_own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", str(SEED))


@pytest.fixture(scope="session", params=[2, pytest.param(4, marks=pytest.mark.long)], ids=["on_two", "on_four"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run all cases in several processes, started once for DDP and FSDP2, for all strategies."""
    return Results(launched("tests.matrix", request.param, tmp_path_factory), request.param)
