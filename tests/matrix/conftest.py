"""Every test here is a run of its own, as those of the doors are, with the seed of the golden rows."""

import pytest

from tests.lightning.conftest import run_of_its_own
from tests.transforms.small import SEED

__all__ = ["run_of_its_own"]


@pytest.fixture(autouse=True)
def seed_of_the_golden_rows(run_of_its_own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", str(SEED))
