"""The table in README.md rests on tests: a condition without a file, or without a test over all golden rows, fails."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.transforms.golden import GOLDEN

from . import table
from .table import CONDITIONS, label, lines, module_of, tests_of


def test_every_file_of_tests_is_a_condition() -> None:
    files = {path.stem for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).stem}
    assert files == set(CONDITIONS.values())


def test_every_strategy_has_a_line_and_every_condition_a_cell() -> None:
    cells = {line.split("|")[1].strip(" `"): line.split("|")[2:-1] for line in lines() if line.startswith("| `")}
    assert set(cells) == set(map(label, GOLDEN))
    for row in cells.values():
        for cell, file in zip(row, CONDITIONS.values(), strict=True):
            assert re.fullmatch(rf" \[(right|refused|right or refused)\]\({file}\.py\) ", cell)


def test_a_condition_whose_tests_are_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONDITIONS, "TPU", "test_tpu")
    with pytest.raises(AssertionError, match=r"tests/matrix/test_tpu\.py is missing"):
        list(lines())


def test_a_condition_without_a_test_over_every_row_is_an_error() -> None:
    module = ModuleType("test_tpu")

    @pytest.mark.parametrize("row", GOLDEN[1:])
    def test_most_rows() -> None: ...

    module.test_most_rows = test_most_rows  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="test_tpu needs a test over all golden rows"):
        tests_of(module)


def test_a_row_that_is_refused_is_no_row_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    module, first = ModuleType("test_tpu"), label(GOLDEN[0])
    module.REFUSED_ROWS = [row for row in GOLDEN if label(row) == first]  # type: ignore[attr-defined]

    @pytest.mark.parametrize("row", [row for row in GOLDEN if label(row) != first])
    def test_other_rows() -> None: ...

    module.test_other_rows = test_other_rows  # type: ignore[attr-defined]
    monkeypatch.setattr(table, "module_of", lambda file: module if file == "test_tpu" else module_of(file))
    monkeypatch.setitem(CONDITIONS, "TPU", "test_tpu")
    refused, *others = (line.split("|")[-2].strip() for line in lines() if line.startswith("| `"))
    assert refused == "[refused](test_tpu.py)"
    assert set(others) == {"[right](test_tpu.py)"}
