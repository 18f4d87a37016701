"""The table in README.md: what is right under which condition, and which tests say so.

`python -m tests.matrix.table` writes it anew, from the golden rows and the tests that are there.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.transforms.golden import GOLDEN, Golden

README = Path(__file__).with_name("README.md")
START, END = "<!-- written by tests/matrix/table.py -->\n", "<!-- to here -->\n"

CONDITIONS = {  # heading of each column, and the file of its tests
    "accumulation": "test_accumulation",
    "fp16": "test_fp16",
    "bf16": "test_bf16",
    "DDP": "test_ddp",
    "FSDP2": "test_fsdp2",
    "compile": "test_compile",
    "resume": "test_resume",
}
UNKNOWN = "unknown"


def label(row: Golden) -> str:
    """Return a strategy's name, and what it takes as one, where it can be told."""
    arguments = {key: vars(row.transform).get(key) for key in ("granularity", "components")}
    told = ", ".join(f'{key}="{value}"' for key, value in arguments.items() if isinstance(value, str))
    return type(row.transform).__name__ + (f"({told})" if told else "")


def tests_of(file: str) -> list[str] | None:
    """Return the names of the tests in a file that every golden row goes through; `None` if there is no such file."""
    if find_spec(f"{__package__}.{file}") is None:
        return None
    members = vars(import_module(f"{__package__}.{file}")).items()
    return [name for name, member in members if name.startswith("test_") and _takes_every_row(member)]


def _takes_every_row(test: Any) -> bool:
    return any(
        mark.name == "parametrize" and mark.args[0] == "row" and mark.args[1] is GOLDEN
        for mark in getattr(test, "pytestmark", ())
    )


def cell(file: str, strategy: str) -> str:
    """Return what is known about a strategy under a condition: right, refused with which error, or nothing."""
    tests = tests_of(file)
    if tests is not None:
        refused = getattr(import_module(f"{__package__}.{file}"), "REFUSED_STRATEGIES", {})  # label to error
        if strategy in refused:
            return f"refused: {refused[strategy]}"
        if not tests:
            return UNKNOWN
    return f"[right]({file}.py)"


def lines() -> Iterator[str]:
    """Yield the lines of the table, and of what is behind each of its columns."""
    yield f"| strategy | {' | '.join(CONDITIONS)} |"
    yield "|---" * (len(CONDITIONS) + 1) + "|"
    for strategy in dict.fromkeys(map(label, GOLDEN)):
        yield f"| `{strategy}` | {' | '.join(cell(file, strategy) for file in CONDITIONS.values())} |"
    yield ""
    yield "Each of these tests runs for every golden row, so for every line above:"
    for condition, file in CONDITIONS.items():
        yield ""
        yield f"- **{condition}**, `tests/matrix/{file}.py`:"
        yield from (f"  - `{name}`" for name in tests_of(file) or ["…"])


def written() -> str:
    """Return the README with the table as it should be."""
    before, _, rest = README.read_text().partition(START)
    return f"{before}{START}\n{chr(10).join(lines())}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(written())
