"""The example of CONTRIBUTING.md: four files written by hand and one command add a strategy, shown on a copy.

Every test that goes over all strategies then takes the new one. What is missing is named by the test that fails.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from tests.generate import TABLES
from tests.strategies import ROOT

STRATEGY, OVERLAY, GOLDEN_ROW = re.findall(  # as CONTRIBUTING.md shows them
    r"```(?:python|yaml)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL
)
ROOM = "lightning_sparsegrad/transforms"
IMPORT = "from lightning_sparsegrad.transforms.masks.vector_damping import VectorDamping\n"
pytestmark = pytest.mark.long

MINE = "VectorDamping or vector_damping or table or test_strategy or compiled_once or says_what_it_shows"
QUICK = [
    "tests/test_generate.py",
    "tests/test_readme.py",
    "tests/configs/test_overlays.py::test_an_overlay_has_a_golden_row_that_says_what_it_shows",
    "tests/engine/test_skipping.py",
    "tests/fuzz/test_material.py",
    "tests/transforms",
]
GONE_OVER = """
from benchmarks.strategies import make_strategies
from benchmarks.models import Thresholds
from tests.matrix.test_fsdp2 import NOT_FOR_SHARDS
print(list(make_strategies(Thresholds(1.0, 1.0, 1.0, 1.0), fused=False)))
print("refused on shards:", *NOT_FOR_SHARDS)
"""


OF_SHARDS = {"test_fsdp2_fits.py", "test_frozen.py"}  # which have strategies of their own


class Copy:
    """A copy of the repository.

    Args:
        root: Its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("benchmarks", "configs", "docs", "lightning_sparsegrad", "tests"):
            copytree(ROOT / name, root / name, ignore=ignore_patterns("_build", "material", ".*"))
        for file in (path for pattern in ("*.md", "*.py", "*.toml", "*.txt") for path in ROOT.glob(pattern)):
            (root / file.name).write_bytes(file.read_bytes())
        self._original = self._files()

    def _files(self) -> dict[str, bytes]:
        files = (path for path in self.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}

    def changed(self) -> set[str]:
        """Return the files that are new or are not as they were."""
        return {name for name, content in self._files().items() if self._original.get(name) != content}

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def add_strategy(self) -> None:
        self.write(f"{ROOM}/masks/vector_damping.py", STRATEGY)

    def add_import(self) -> None:
        exports = (self.root / ROOM / "__init__.py").read_text()
        exports = exports.replace("\n\n__all__ = [\n", f'\n{IMPORT}\n__all__ = [\n    "VectorDamping",\n', 1)
        self.write(f"{ROOM}/__init__.py", exports)

    def add_overlay(self) -> None:
        self.write("configs/gradient/vector_damping.yaml", OVERLAY)

    def add_golden_row(self, text: str = GOLDEN_ROW) -> None:
        self.write("tests/transforms/golden/vector_damping.py", text)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**alone, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )

    def pytest(self, tests: Sequence[str], only: str = MINE) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", only, *tests)

    def generate(self) -> None:
        done = self.python("-m", "tests.generate")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "repository")


def test_four_files_and_a_command_add_a_strategy(copy: Copy) -> None:
    copy.add_strategy()
    copy.add_import()
    copy.add_overlay()
    copy.add_golden_row()
    by_hand = copy.changed()
    assert len(by_hand) == 4
    copy.generate()
    assert copy.changed() - by_hand == {file.relative_to(ROOT).as_posix() for file in TABLES}
    done = copy.pytest(["tests/transforms/test_contract.py", "tests/docs/test_pages.py"], f"{MINE} or page or overlay")
    assert done.returncode == 0, done.stdout[-5000:]
    assert (
        "| `VectorDamping` | `vector_damping` | Scale the gradient of every vector, a bias or a normalization weight, "
        "by a factor | After [Author and Author 2020](https://example.org/paper), section 2 |\n"
    ) in (copy.root / "README.md").read_text()


def test_what_is_missing_is_named(copy: Copy) -> None:
    copy.add_strategy()
    alone = copy.pytest(["tests/transforms/test_contract.py"])
    assert alone.returncode == 1, alone.stdout
    assert f"import VectorDamping in {ROOM}/__init__.py" in alone.stdout
    assert "a strategy needs an overlay of its name: add configs/gradient/vector_damping.yaml" in alone.stdout
    assert "VectorDamping needs a golden row: add tests/transforms/golden/vector_damping.py" in alone.stdout


@pytest.mark.timeout(900)
def test_every_condition_and_the_soak_take_the_strategy(copy: Copy) -> None:
    copy.add_strategy()
    copy.add_import()
    copy.add_overlay()
    copy.add_golden_row()
    copy.generate()
    benchmarked, refused = copy.python("-c", GONE_OVER).stdout.splitlines()
    assert "VectorDamping, as in vector_damping.yaml" in benchmarked
    assert "VectorDamping" in refused
    done = copy.pytest(QUICK)
    assert done.returncode == 0, done.stdout[-5000:]
    conditions = {file.name for file in (ROOT / "tests" / "matrix").glob("test_*.py")} - OF_SHARDS
    listed = copy.python("-m", "pytest", "--collect-only", "-q", "-k", MINE, "tests/matrix").stdout
    assert {name for name in conditions if f"{name}::" not in listed} == {"test_fsdp2.py"}  # it does not take shards
    rest = ["configs", "engine", "matrix", "soak", "fuzz", "benchmarks"]
    only = f"{MINE} or golden_rows_have_it or short_soak_finds"
    launched = "--deselect=tests/matrix/test_ddp.py"  # it would run the cases of all strategies again
    done = copy.pytest([*(f"tests/{name}" for name in rest), launched], only)
    assert done.returncode == 0, done.stdout[-5000:]


def test_a_row_without_the_effect_of_its_overlay_is_red(copy: Copy) -> None:
    copy.add_strategy()
    copy.add_import()
    copy.add_overlay()
    copy.add_golden_row(GOLDEN_ROW.replace(', overlay="vector_damping", effect=_vectors_rest', ""))
    done = copy.pytest(QUICK)
    assert done.returncode == 1, done.stdout
    assert "configs/gradient/vector_damping.yaml needs its effect: a row of `VectorDamping`" in done.stdout
    assert "README.md is stale: run `python -m tests.generate`" in done.stdout
