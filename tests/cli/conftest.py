from pathlib import Path

import pytest

from tests.cli.helpers import Arguments


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    return Arguments(tmp_path)


@pytest.fixture(autouse=True)
def no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["users_cli"])  # LightningCLI warns of arguments beside `args=`
