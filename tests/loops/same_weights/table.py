"""The table of all cells in `docs/guides/loops.md`."""

from collections.abc import Iterator

from tests.strategies import ROOT

from .cells import CONDITIONS, LOOPS, Cells
from .task import STRATEGIES

GUIDE = ROOT / "docs" / "guides" / "loops.md"


def lines(cells: Cells) -> Iterator[str]:
    """Yield the lines of the table: a row for a strategy, a column for a loop, in a cell a number for a condition."""
    yield f"| strategy | {' | '.join(LOOPS)} |"
    yield f"|---|{'---|' * len(LOOPS)}"
    for strategy in STRATEGIES:
        row = (", ".join(str(cells[condition, strategy, loop]) for condition in CONDITIONS) for loop in LOOPS)
        yield f"| `{strategy}` | {' | '.join(row)} |"
