"""Names of variables, attributes, functions, classes and modules say what their value is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.cases import cases

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for folder in ("lightning_sparsegrad", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
# as a word of a name, in any case; these are terms of the field, of torch and of jsonargparse
VAGUE = re.compile(r"(?<![A-Za-z])(found|told|said|linked|outcomes?|places?|^of_one$)(?![A-Za-z])", re.IGNORECASE)
TERMS = re.compile(r"in_place|found_inf|linked_targets")
# parsing every file takes seconds: only those that contain such a word outside of strings and comments are parsed
PROSE = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"""|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*', re.DOTALL)


def is_vague(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", TERMS.sub("", name))
    return bool(VAGUE.search(words))


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
            yield 0, node.asname
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name


def vague_names(code: str) -> list[tuple[int, str]]:
    if not any(is_vague(word) for word in set(re.findall(r"\w+", PROSE.sub("", code)))):
        return []
    return [(line, name) for line, name in names_in(ast.parse(code)) if is_vague(name)]


def test_names_say_what_their_value_is() -> None:
    modules = [str(path.relative_to(ROOT)) for path in FILES if is_vague(path.stem)]
    names = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        for line, name in vague_names(path.read_text("utf-8"))
    ]
    assert modules + names == []


@cases(
    "code",
    [
        *("found = 1", "self._told = True", "for place in range(3): pass", "(said := 1)", "def is_told(): pass"),
        *("def f(outcome): pass", "class Outcome: pass", "class RunOutcome: pass", "import os as place", "LINKED = 1"),
        *("async def outcome_of(): pass", "[of_one for of_one in x]", "with f() as places: pass", "lambda found: 0"),
    ],
)
def test_a_vague_name_is_seen_wherever_it_is_defined(code: str) -> None:
    assert len(vague_names(code)) == 1


@cases(
    "code",
    [
        "optimizer.found_inf = 1",
        "def test_it_is_found(): pass",
        "x = found",
        "blocks_in_place = 1",
        "replaced = 1",
        "# found = 1",
    ],
)
def test_other_names_are_not(code: str) -> None:
    assert vague_names(code) == []
