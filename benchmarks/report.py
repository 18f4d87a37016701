"""The results of a benchmark, as a table and as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.ratios import Ratio, Summary


@dataclass(frozen=True)
class Row:
    """The numbers of one arm.

    Args:
        arm: The name of the arm.
        group: Its group in the plot.
        values: Column to number; the name of the column includes the unit.
    """

    arm: str
    group: str
    values: dict[str, Summary]


@dataclass
class Report:
    """All numbers of one benchmark.

    Args:
        benchmark: Its name, and the name of its files.
        machine: The machine of the measurement.
        settings: The settings of the run.
        rows: The arms.
        ratios: The ratios, with their targets.
        notes: Further remarks for the reader.
    """

    benchmark: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, arm: str, group: str, column: str, value: Summary) -> None:
        """Add a number to the row of an arm, which is new if it has none yet."""
        row = next((row for row in self.rows if row.arm == arm), None)
        if row is None:
            self.rows.append(row := Row(arm, group, {}))
        row.values[column] = value

    @property
    def columns(self) -> list[str]:
        """All columns of the rows, in order of first occurrence."""
        return list(dict.fromkeys(column for row in self.rows for column in row.values))

    def write_json(self, folder: Path) -> Path:
        """Write the report to `folder` and return the path."""
        folder.mkdir(parents=True, exist_ok=True)
        ratios = [asdict(ratio) | {"verdict": ratio.verdict} for ratio in self.ratios]
        path = folder / f"{self.benchmark}.json"
        path.write_text(json.dumps(asdict(self) | {"ratios": ratios}, indent=1) + "\n")
        return path

    def show(self, console: Console) -> None:
        """Print rows, ratios and notes."""
        console.print(self._rows_table(), self._ratios_table())
        for note in self.notes:
            console.print(f"- {note}", highlight=False, markup=False)

    def _rows_table(self) -> Table:
        table = Table("arm", title=f"{self.benchmark}: median (quartiles)")
        for column in self.columns:
            table.add_column(escape(column), justify="right")  # a unit in brackets is not markup
        for row in self.rows:
            cells = [row.values.get(column) for column in self.columns]
            table.add_row(escape(row.arm), *[format_summary(cell) if cell else "" for cell in cells])
        return table

    def _ratios_table(self) -> Table:
        table = Table("ratio", title=f"{self.benchmark}: ratios and targets")
        for column in ("value", "target", "aim", ""):
            table.add_column(column, justify="right")
        colours = {"reached": "green", "missed": "red", "": ""}
        for ratio in self.ratios:
            bounds = [
                f"<= {bound:.3g}{ratio.unit}" if bound is not None else "" for bound in (ratio.at_most, ratio.aim)
            ]
            value = format_summary(ratio.summary, ratio.unit)
            table.add_row(ratio.name, value, *bounds, ratio.verdict, style=colours[ratio.verdict])
        return table


def format_summary(summary: Summary, unit: str = "") -> str:
    """Return the value with its quartiles, to three digits."""
    value, lower, upper = (format_number(number) for number in (summary.value, summary.lower, summary.upper))
    return f"{value}{unit}" if summary.count == 1 else f"{value}{unit} ({lower}-{upper})"


def format_number(number: float) -> str:
    """Return a number to three digits, without an exponent unless that is shorter."""
    return f"{number:.0f}" if 100 <= abs(number) < 1e6 else f"{number:.3g}"
