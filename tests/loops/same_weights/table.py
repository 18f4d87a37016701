"""The table of all cells in `docs/guides/loops.md`: from the results that the long tests hold every loop to."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.strategies import ROOT

RESULTS = Path(__file__).with_name("results.json")
GUIDE = ROOT / "docs" / "guides" / "loops.md"

Cell = float | str  # the largest difference of any weight, or the first words of a refusal
Key = tuple[str, str, str]  # condition, strategy and loop


def read() -> dict[Key, Cell]:
    """Return the recorded cells."""
    tables = json.loads(RESULTS.read_text())
    return {
        (condition, strategy, loop): cell
        for condition, rows in tables.items()
        for strategy, row in rows.items()
        for loop, cell in row.items()
    }


def write(cells: Iterable[tuple[Key, Cell]]) -> None:
    """Record cells in place of those before."""
    tables: dict[str, dict[str, dict[str, Cell]]] = {}
    for (condition, strategy, loop), cell in cells:
        tables.setdefault(condition, {}).setdefault(strategy, {})[loop] = cell
    RESULTS.write_text(json.dumps(tables, indent=2) + "\n")


def lines() -> Iterator[str]:
    """Yield the lines of one table for each condition: a row for a strategy, a column for a loop."""
    for index, (condition, rows) in enumerate(json.loads(RESULTS.read_text()).items()):
        loops = list(next(iter(rows.values())))
        yield from [""] if index else []
        yield f"{condition}:"
        yield ""
        yield f"| strategy | {' | '.join(loops)} |"
        yield f"|---|{'---|' * len(loops)}"
        for strategy, row in rows.items():
            yield f"| {strategy} | {' | '.join(str(row[loop]) for loop in loops)} |"
