from pathlib import Path

import pytest

from tests.generate import END, START, TABLES, written
from tests.strategies import ROOT


@pytest.mark.parametrize("file", TABLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_table_is_what_the_code_says(file: Path) -> None:
    assert file.read_text() == written(file, TABLES[file]()), (
        f"{file.relative_to(ROOT)} is stale: run `python -m tests.generate`"
    )


def test_only_the_region_is_written(tmp_path: Path) -> None:
    file, lines = tmp_path / "table.md", ["| a |", "|---|"]
    file.write_text(f"before\n{START}stale\n{END}after\n")
    assert written(file, lines) == f"before\n{START}\n| a |\n|---|\n\n{END}after\n"
    file.write_text("no region\n")
    with pytest.raises(AssertionError, match="needs the line"):
        written(file, lines)
