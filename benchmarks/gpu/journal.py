"""The results of a run, in files that are complete after each result."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """A result.

    Args:
        section: The heading under which it stands.
        name: What was checked or measured.
        values: Column to value, with the unit in the name of the column.
    """

    section: str
    name: str
    values: dict[str, Any]


class Journal:
    """A JSON line for each result, and one Markdown page of all.

    The files are new ones, named after the time of the start.

    Args:
        folder: Their folder.
        machine: The machine of the run.
    """

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        start = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        self.lines, self.page = folder / f"gpu-{start}.jsonl", folder / f"gpu-{start}.md"
        self._machine = machine
        self._results: list[Result] = []
        self._append(machine)

    def add(self, result: Result) -> None:
        """Write a result."""
        self._results.append(result)
        self._append({"section": result.section, "name": result.name, **result.values})
        self.page.write_text(self._text())

    @property
    def failures(self) -> list[str]:
        """The names of results that failed."""
        return [result.name for result in self._results if result.values.get("verdict") in {"failed", "missed"}]

    def _append(self, line: dict[str, Any]) -> None:
        with self.lines.open("x" if not self.lines.exists() else "a") as file:
            file.write(json.dumps(line) + "\n")

    def _text(self) -> str:
        shown = {name: value for name, value in self._machine.items() if name != "lscpu"}
        parts = [
            "# " + str(shown.get("accelerator", shown["device"])),
            table(["", ""], [[*pair] for pair in shown.items()]),
        ]
        for section in dict.fromkeys(result.section for result in self._results):
            results = [result for result in self._results if result.section == section]
            columns = list(dict.fromkeys(column for result in results for column in result.values))
            rows = [[result.name, *[result.values.get(column, "") for column in columns]] for result in results]
            parts += [f"## {section}", table(["", *columns], rows)]
        return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
