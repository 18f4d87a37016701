"""Plain text: aligned columns, sizes in words, and rows that are the same."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import log10

_UNITS = ("B", "KB", "MB", "GB", "TB")
_NUMBERED = re.compile(r"(.*?)(\d+)")


def aligned(lines: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return lines of cells as text whose columns begin below each other.

    Args:
        lines: The cells, as many in each line.
        right: The columns that end below each other.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def counted(count: int, name: str) -> str:
    """Return a number of things in words.

    Example:
        >>> counted(1, "step"), counted(2000, "step")
        ('1 step', '2,000 steps')
    """
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"


def in_bytes(size: int) -> str:
    """Return a number of bytes in words, by thousands.

    Example:
        >>> in_bytes(90_855_944)
        '90.9 MB'
    """
    if size < 1000:
        return f"{size} B"
    power = min(len(_UNITS) - 1, int(log10(size)) // 3)
    return f"{size / 1000**power:.1f} {_UNITS[power]}"


def runs(rows: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield a label and the first name of each run of equal rows whose names are numbered one after the other.

    Args:
        rows: Content by name.

    Example:
        >>> list(runs({"embeddings": 1, "block 0": 2, "block 1": 2, "head": 2}))
        [('embeddings', 'embeddings'), ('block 0 to 1, each', 'block 0'), ('head', 'head')]
    """
    run: list[str] = []
    for name in rows:
        if run and not (rows[name] == rows[run[0]] and _follows(run[-1], name)):
            yield _label(run), run[0]
            run = []
        run.append(name)
    if run:
        yield _label(run), run[0]


def _label(run: Sequence[str]) -> str:
    return run[0] if len(run) == 1 else f"{run[0]} to {run[-1].rpartition(' ')[2]}, each"


def _follows(name: str, other: str) -> bool:
    one, two = _NUMBERED.fullmatch(name), _NUMBERED.fullmatch(other)
    return one is not None and two is not None and one[1] == two[1] and int(two[2]) == int(one[2]) + 1
