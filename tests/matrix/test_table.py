"""The table in README.md is what the tests show, with a line for every strategy and no cell unknown."""

import re

from tests.transforms.golden import GOLDEN

from .table import CONDITIONS, README, written


def cells() -> dict[str, list[str]]:
    """Return the cells of each line of the table as it is written."""
    table = [line.strip("|").split("|") for line in README.read_text().splitlines() if line.startswith("| ")]
    return {first.strip(" `"): [cell.strip() for cell in others] for first, *others in table}


def test_the_table_is_what_the_tests_show() -> None:
    assert README.read_text() == written(), "write it anew: python -m tests.matrix.table"


def test_every_strategy_has_a_line() -> None:
    strategies = {strategy.partition("(")[0] for strategy in cells()}
    assert strategies >= {type(row.transform).__name__ for row in GOLDEN}


def test_no_cell_is_unknown() -> None:
    heading, *strategies = cells().items()
    assert heading == ("strategy", list(CONDITIONS))
    for strategy, found in strategies:
        assert len(found) == len(CONDITIONS), strategy
        for cell in found:
            assert re.fullmatch(r"\[right\]\(test_\w+\.py\)|refused: .+", cell), f"{strategy}: {cell}"
