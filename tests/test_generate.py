from pathlib import Path

import pytest

from tests import generate
from tests.generate import TABLES, written
from tests.strategies import ROOT


@pytest.mark.parametrize("file", TABLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_table_is_what_the_code_says(file: Path) -> None:
    assert file.read_text() == written(file), f"{file.relative_to(ROOT)} is stale: run `python -m tests.generate`"


def test_only_the_region_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "table.md"
    file.write_text(f"before\n{generate.START}stale\n{generate.END}after\n")
    monkeypatch.setitem(TABLES, file, lambda: iter(["| a |", "|---|"]))
    assert written(file) == f"before\n{generate.START}\n| a |\n|---|\n\n{generate.END}after\n"
    file.write_text("no region\n")
    with pytest.raises(AssertionError, match="needs the line"):
        written(file)
