"""Writes the tables that are made from the code: `python -m tests.generate`.

Each table is one region of a Markdown file, between two comments; nothing outside of it is changed. With `--measure`,
the tables of what is measured are written too, which takes two minutes.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.strategies import ROOT
from tests.transforms import table as strategies

START, END = "<!-- from here on written by `python -m tests.generate` -->\n", "<!-- to here -->\n"
TABLES: dict[Path, Callable[[], Iterator[str]]] = {
    ROOT / "README.md": strategies.lines,
}


def written(file: Path, lines: Iterable[str]) -> str:
    """Return the text of a file with other lines as its table."""
    before, start, rest = file.read_text().partition(START)
    _, end, after = rest.partition(END)
    assert start, f"{file} needs the line {START}"
    assert end, f"{file} needs the line {END}"
    return f"{before}{START}\n{chr(10).join(lines)}\n\n{END}{after}"


def measure() -> None:
    """Train with every loop, and write the table of their weights."""
    from tests.loops.same_weights import cells, table  # they import every library that trains

    with TemporaryDirectory() as folder:
        table.GUIDE.write_text(written(table.GUIDE, table.lines(cells.Cells(Path(folder)))))


if __name__ == "__main__":
    for each, make in TABLES.items():
        each.write_text(written(each, make()))
    if "--measure" in sys.argv:
        measure()
