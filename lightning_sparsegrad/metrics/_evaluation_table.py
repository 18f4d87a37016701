"""The table of an evaluation, with a row per metric and a column per part of the data."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_sparsegrad.untrusted._terminal import shown

MEANS = ("mean", "mean_unseen")
_WHOLE = ""  # stands for the part of a metric over all data
_FRAME = 3  # columns that rich draws around a cell: a space on each side and a line


def metric_and_part(name: str, *, prefix: str) -> tuple[str, str] | None:
    """Split a logged name into its metric and its part (or mean); `None` for a name without the prefix.

    Args:
        name: `<prefix><metric>/<part>`, or `<prefix><metric>`, whose part is `""`.
        prefix: `"val/"` or `"test/"`.

    Example:
        >>> metric_and_part("val/accuracy/de", prefix="val/")
        ('accuracy', 'de')
    """
    metric, _, part = name.removeprefix(prefix).partition("/")
    return (metric, part) if name.startswith(prefix) else None


def is_part(part: str) -> bool:
    """Whether the part of a name is a part of the data, rather than a mean or all data."""
    return part not in (_WHOLE, *MEANS)


@dataclass(frozen=True)
class EvaluationTable:
    """A table of metrics by part.

    Args:
        columns: The parts, in order.
        rows: The values by metric and part; a metric may lack some parts.
    """

    columns: list[str]
    rows: dict[str, dict[str, float]]

    @property
    def has_parts(self) -> bool:
        """Whether any column is a part of the data."""
        return any(map(is_part, self.columns))

    def _heading(self, column: str) -> str:
        return column or ("without part" if "all" in self.columns else "all")

    def _lines(self, show: Callable[[float], str], columns: list[str]) -> list[list[str]]:
        heading = ["metric", *map(self._heading, columns)]
        rows = (
            [metric, *(show(row[column]) if column in row else "" for column in columns)]
            for metric, row in self.rows.items()
        )
        return [heading, *rows]

    def to_csv(self) -> str:
        """Return the table as CSV with all digits, so that reading it gives the logged values exactly."""
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._lines(repr, self.columns))
        return text.getvalue()

    def to_markdown(self) -> str:
        """Return the table as GitHub's markdown, aligned, with four significant digits."""
        return to_markdown(self._lines(_short, self.columns))

    def show(self, console: Console, *, heading: str) -> None:
        """Print the table with four significant digits, in stacked blocks of columns no wider than the console.

        Args:
            console: The console.
            heading: The heading of the column of metrics.
        """
        for columns in self._blocks(console.width, heading):
            (_, *headings), *rows = self._lines(_short, columns)
            table = Table()
            table.add_column(Text(shown(heading)), overflow="fold")
            for name in headings:  # `Text` does not read brackets as markup
                table.add_column(Text(shown(name)), justify="right", overflow="fold")
            for row in rows:
                table.add_row(*(Text(shown(cell)) for cell in row))
            console.print(table)

    def _blocks(self, width: int, heading: str) -> list[list[str]]:
        """Split the columns into blocks that fit a width, of at least one column; the means stay together."""

        def size(column: str) -> int:
            cells = (_short(row[column]) for row in self.rows.values() if column in row)
            return max(map(cell_len, (self._heading(column), *cells))) + _FRAME

        means = [column for column in self.columns if column in MEANS]
        units = [*([column] for column in self.columns if column not in MEANS), *([means] if means else [])]
        room = width - max(map(cell_len, (heading, *self.rows)), default=0) - _FRAME - 1
        blocks: list[list[str]] = []
        left = 0
        for unit in units:
            needed = sum(map(size, unit))
            if not blocks or needed > left:
                blocks.append([])
                left = room
            blocks[-1] += unit
            left -= needed
        return blocks


def evaluation_table(metrics: Mapping[str, float | Tensor], *, prefix: str) -> EvaluationTable:
    """Make a table of the values logged under a prefix.

    Columns are in the order in which their parts were first logged. Values of all data come first, under `all`, and
    means come last.

    Args:
        metrics: The values, or tensors of one element, by name: `<prefix><metric>`, or `<prefix><metric>/<part>`, where
            the part is a name or `mean` or `mean_unseen`. Other names are ignored.
        prefix: `"val/"` or `"test/"`.

    Example:
        >>> metrics = {"val/f1/en": 0.75, "val/f1/de": 0.5, "val/f1/mean": 0.625, "val/f1/mean_unseen": 0.5}
        >>> print(evaluation_table(metrics, prefix="val/").to_markdown(), end="")
        | metric |   en |  de |  mean | mean_unseen |
        | ------ | ---: | --: | ----: | ----------: |
        | f1     | 0.75 | 0.5 | 0.625 |         0.5 |
    """
    rows: dict[str, dict[str, float]] = {}
    parts: dict[str, None] = {}  # a set that keeps its order
    for name, value in metrics.items():
        if named := metric_and_part(name, prefix=prefix):
            metric, part = named
            rows.setdefault(metric, {})[part] = float(value)
            parts[part] = None
    order = (_WHOLE, *filter(is_part, parts), *MEANS)
    return EvaluationTable([column for column in order if column in parts], rows)


def to_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells, the heading first, as a table of GitHub's markdown; the first column is left-aligned."""
    names, *values = zip(*([cell.replace("|", r"\|") for cell in line] for line in lines), strict=True)
    columns = [_aligned(names, str.ljust, rule="-"), *(_aligned(column, str.rjust, rule=":") for column in values)]
    return "".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True))


def _short(value: float) -> str:
    return f"{value:.4g}"


def _aligned(cells: Sequence[str], justify: Callable[[str, int], str], *, rule: str) -> list[str]:
    """Return a column of markdown with cells of one width and a rule below the heading that ends with `rule`."""
    width = max(3, *map(cell_len, cells))
    heading, *values = (
        justify(cell, width - cell_len(cell) + len(cell)) for cell in cells
    )  # some characters are two cells wide
    return [heading, "-" * (width - 1) + rule, *values]
