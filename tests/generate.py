"""Writes the tables that are made from the code: `python -m tests.generate`.

Each table is one region of a Markdown file, between two comments; nothing outside of it is changed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.loops.same_weights import table as same_weights
from tests.strategies import ROOT
from tests.transforms import table as strategies

START, END = "<!-- from here on written by `python -m tests.generate` -->\n", "<!-- to here -->\n"
TABLES: dict[Path, Callable[[], Iterator[str]]] = {
    ROOT / "README.md": strategies.lines,
    same_weights.GUIDE: same_weights.lines,
}


def written(file: Path) -> str:
    """Return the text of a file with its table as it should be."""
    before, start, rest = file.read_text().partition(START)
    _, end, after = rest.partition(END)
    assert start, f"{file} needs the line {START}"
    assert end, f"{file} needs the line {END}"
    return f"{before}{START}\n{chr(10).join(TABLES[file]())}\n\n{END}{after}"


if __name__ == "__main__":
    for each in TABLES:
        each.write_text(written(each))
