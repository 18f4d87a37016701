"""The table in README.md: what is right under which condition, and which tests say so.

A cell needs a file of tests, with a test over all golden rows; without one there is no table, but an error.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from tests.transforms.golden import GOLDEN, Golden

CONDITIONS = {  # heading of each column, and the file of its tests
    "accumulation": "test_accumulation",
    "fp16": "test_fp16",
    "bf16": "test_bf16",
    "DDP": "test_ddp",
    "FSDP2": "test_fsdp2",
    "compile": "test_compile",
    "resume": "test_resume",
}


def label(row: Golden) -> str:
    """Return a strategy's name, with the unit it works on where there is a choice."""
    arguments = {key: vars(row.transform).get(key) for key in ("granularity", "components")}
    units = ", ".join(f'{key}="{value}"' for key, value in arguments.items() if isinstance(value, str))
    return type(row.transform).__name__ + (f"({units})" if units else "")


def module_of(file: str) -> ModuleType:
    """Return the tests of a condition."""
    name = f"{__package__}.{file}"
    assert find_spec(name) is not None, f"tests/matrix/{file}.py is missing: its condition has no tests"
    return import_module(name)


def refused(module: ModuleType) -> list[Golden]:
    """Return the golden rows that are refused under a condition, which a test of it shows."""
    return getattr(module, "REFUSED_ROWS", [])


def tests_of(module: ModuleType) -> list[str]:
    """Return the names of the tests over all golden rows that are not refused."""
    rows = [row for row in GOLDEN if row not in refused(module)]
    names = [name for name, test in vars(module).items() if name.startswith("test_") and _rows_of(test) == rows]
    assert names, f'{module.__name__} needs a test over all golden rows: `pytest.mark.parametrize("row", GOLDEN)`'
    return names


def _rows_of(test: Any) -> list[Golden]:
    marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize" and mark.args[0] == "row"]
    return [row for mark in marks for row in mark.args[1]]


def lines() -> Iterator[str]:
    """Yield the lines of the table, and of what is behind each of its columns."""
    modules = {file: module_of(file) for file in CONDITIONS.values()}
    tests = {file: tests_of(module) for file, module in modules.items()}
    yield f"| strategy | {' | '.join(CONDITIONS)} |"
    yield "|---" * (len(CONDITIONS) + 1) + "|"
    for strategy in dict.fromkeys(map(label, GOLDEN)):
        rows = [row for row in GOLDEN if label(row) == strategy]
        cells = [f"[{_outcome(rows, refused(module))}]({file}.py)" for file, module in modules.items()]
        yield f"| `{strategy}` | {' | '.join(cells)} |"
    yield ""
    yield "Each of these tests runs for every golden row that is not refused:"
    for condition, file in CONDITIONS.items():
        yield ""
        yield f"- **{condition}**, `tests/matrix/{file}.py`:"
        yield from (f"  - `{name}`" for name in tests[file])


def _outcome(rows: list[Golden], others: list[Golden]) -> str:
    return " or ".join(dict.fromkeys("refused" if row in others else "right" for row in rows))
