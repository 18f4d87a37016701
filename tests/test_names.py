"""Names of variables, attributes, functions, classes and modules say what their value is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.cases import cases

ROOT = Path(__file__).parent.parent
FOLDERS = ("lightning_sparsegrad", "tests", "benchmarks")
# as a word of a name, in any case; `in_place` and torch's `found_inf` are terms of the field
VAGUE = re.compile(r"(?:^|_)(found(?!_inf)|told|said|linked|outcomes?|(?<!in_)places?|^of_one$)(?=_|$)", re.IGNORECASE)
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of all definitions, except tests, whose names are sentences."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.name.startswith("test_"):
                yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name


def vague(code: str) -> list[tuple[int, str]]:
    return [
        (line, name)
        for line, name in names_in(ast.parse(code))
        if VAGUE.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    ]


def test_names_say_what_their_value_is() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {name}" for path in FILES for line, name in vague(path.read_text("utf-8"))
    ]
    modules = [str(path.relative_to(ROOT)) for path in FILES if VAGUE.search(path.stem)]
    assert modules + faults == []


@cases(
    "code",
    [
        *("found = 1", "self._told = True", "for place in range(3): pass", "(said := 1)", "def is_told(): pass"),
        *("def f(outcome): pass", "class Outcome: pass", "class RunOutcome: pass", "import os as place", "LINKED = 1"),
        *("async def outcome_of(): pass", "[of_one for of_one in x]", "with f() as places: pass", "lambda found: 0"),
    ],
)
def test_a_vague_name_is_seen_wherever_it_is_defined(code: str) -> None:
    assert len(vague(code)) == 1


@cases(
    "code",
    ["optimizer.found_inf = 1", "def test_it_is_found(): pass", "x = found", "mask_in_place = 1", "replaced = 1"],
)
def test_other_names_are_not(code: str) -> None:
    assert vague(code) == []
