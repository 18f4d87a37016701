"""Private names of other libraries: each is there, each stands in its module alone, and none is listed in vain."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from inspect import getsource, unwrap
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

import lightning_sparsegrad
from tests.cases import cases
from tests.private_names import LIBRARIES, ROWS, Row, itself

PACKAGE = "lightning_sparsegrad"
FOLDER = Path(lightning_sparsegrad.__file__).parent
TABLE = {(row.library, row.name) for row in ROWS}
NAMES = {row.name for row in ROWS if not row.is_replaced}
REPLACED = {row.name for row in ROWS if row.is_replaced}
_PRIVATE = re.compile(r"_[A-Za-z]\w*(?<!__)")
TRITON = "functional/_triton_kernels.py"  # imports what is for accelerators, and overrides nothing
_OF_LIBRARY = re.compile(rf"_({'|'.join(LIBRARIES)})(?:_\w+)?\.py")
_PATH = re.compile(r"\.?\w+(?:\.\w+)*\.?")


# ------------------------------------------------------------ what is there
class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).square().mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("validation", self.layer(batch).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Faults(Callback):
    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        faults = {
            f"{row.library}.{row.name}: without it {row.breaks}, see {row.upstream}": row.fault(trainer) for row in ROWS
        }
        self.of = {name: fault for name, fault in faults.items() if fault}


@pytest.mark.filterwarnings("ignore")  # of what is imported to look at it
def test_every_name_is_there_in_the_installed_version(tmp_path: Path) -> None:
    faults = Faults()
    data: Any = DataLoader(torch.zeros(2, 1))  # type: ignore[arg-type]  # a tensor is a dataset to torch
    quiet: Any = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    callbacks = [ModelCheckpoint(tmp_path), faults]
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, default_root_dir=tmp_path, **quiet)
    trainer.fit(Module(), data, data)
    assert not faults.of, "\n".join(f"{name}: {fault}" for name, fault in faults.of.items())


def test_what_the_package_puts_in_place_of_a_function_is_not_taken_for_it() -> None:
    import_module(f"{PACKAGE}.untrusted._callables")
    names = "_typehints.adapt_partial_callable_class", "_typehints.check_import_path", "ArgumentParser._check_value_key"
    for name in names:
        replaced = attrgetter(name)(import_module("jsonargparse"))
        assert replaced.__module__.startswith(PACKAGE)
        assert unwrap(replaced).__module__.startswith("jsonargparse.")


_RENAMED = """
import warnings
import torch
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops import fetchers
from lightning.pytorch.strategies import launchers
del fetchers._DataLoaderIterDataFetcher
del subprocess_script._ChildProcessObserver, launchers._SubprocessScriptLauncher
del ModelCheckpoint._link_checkpoint
import lightning_sparsegrad
from lightning_sparsegrad import *
warnings.simplefilter("ignore")
class Task(LightningModule):
    def training_step(self, batch, _):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
def fit(*callbacks):
    task = Task()
    task.layer = torch.nn.Linear(2, 1)
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(accelerator="cpu", max_steps=2, callbacks=[ModelCheckpoint(FOLDER), *callbacks], **quiet)
    trainer.fit(task, torch.utils.data.DataLoader(torch.ones(2, 2)))
    print(trainer.global_step)
fit(GradientTransformCallback(GradDrop(rate=0.5)))
try:
    fit(ExactResume())
except lightning_sparsegrad.ConfigurationError as error:
    print(error)
"""


@pytest.mark.long
def test_a_name_that_is_gone_ends_a_resume_alone_with_a_line_that_names_the_version(tmp_path: Path) -> None:
    code = _RENAMED.replace("FOLDER", repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    steps, line = done.stdout.splitlines() or [done.stderr, ""]
    assert steps == "2"
    assert line.startswith("Library `lightning` should have a version that is known to work for a resume. Found")
    assert version("lightning") in line
    assert "_DataLoaderIterDataFetcher" in line


# ------------------------------------------------------------ what the package uses
@cache
def trees() -> dict[str, ast.Module]:
    paths = [path.relative_to(FOLDER) for path in FOLDER.rglob("*.py")]
    return {path.as_posix(): ast.parse((FOLDER / path).read_text("utf-8")) for path in paths}


def private(name: str) -> bool:
    return _PRIVATE.fullmatch(name) is not None


@cache
def own() -> dict[str, tuple[set[str], set[str]]]:
    """Return, by the name of each class of the package, what it defines and the names of its bases."""
    classes: dict[str, tuple[set[str], set[str]]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                defined, bases = classes.setdefault(node.name, (set(), set()))
                bases |= {ast.unparse(base).partition("[")[0] for base in node.bases}
                defined |= set(members(node))
    return classes


def members(node: ast.ClassDef) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner.name
        elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and of_self(inner):
            yield inner.attr
        elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id


def of_self(node: ast.Attribute) -> bool:
    return ast.unparse(node.value) in {"self", "cls", "super()"}


def defined_by(name: str) -> set[str]:
    defined, bases = own().get(name, (set(), set()))
    return defined.union(*map(defined_by, bases))


@cache
def defined_anywhere() -> set[str]:
    """Return the names of modules, functions, variables and members of the package."""
    defined = set().union(*(names for names, _ in own().values())) | {Path(path).stem for path in trees()}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
    return defined


@cache
def ours() -> set[str]:
    return defined_anywhere() - NAMES


def uses(tree: ast.AST, owner: str = "") -> Iterator[str]:
    """Yield the private names of other libraries in the code of a module.

    A name on `self` is another library's unless the class or a base of it in the package defines it; on anything else,
    and as a text, unless something in the package does. A name of the table is always another library's.
    """
    for node in ast.iter_child_nodes(tree):
        yield from uses(node, node.name if isinstance(node, ast.ClassDef) else owner)
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names if is_foreign(alias.name) for name in within(alias.name))
        elif isinstance(node, ast.ImportFrom) and not node.level and is_foreign(str(node.module)):
            names = [alias.name for alias in node.names]
            yield from names if any(within(str(node.module))) else filter(private, names)
        elif isinstance(node, ast.Attribute):
            yield from attribute(node, owner)
        elif isinstance(node, ast.keyword) and node.arg and (private(node.arg) or node.arg in NAMES):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _PATH.fullmatch(node.value):
            yield from (name for name in within(node.value) if name not in ours())
            yield from {node.value.strip(".")} & {name for name in NAMES if not private(name)}


def is_foreign(module: str) -> bool:
    return module.partition(".")[0] not in {PACKAGE, *sys.stdlib_module_names}


def within(path: str) -> Iterator[str]:
    return filter(private, path.split("."))


def attribute(node: ast.Attribute, owner: str) -> Iterator[str]:
    if ast.unparse(node.value) == "os":
        return
    known = defined_by(owner) if of_self(node) and owner else ours()
    is_replaced = node.attr in REPLACED and isinstance(node.ctx, ast.Store) and not of_self(node)
    if is_replaced or ((private(node.attr) or node.attr in NAMES) and node.attr not in known):
        yield node.attr


def overridden(tree: ast.AST, names: dict[str, Any]) -> Iterator[set[str]]:
    """Yield what classes define anew, or set on themselves, of the private names of other libraries.

    Args:
        tree: The code of a module.
        names: What is defined in the module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            defined = set(filter(private, members(node)))
            for base in node.bases if defined else ():
                yield defined & private_names_of(eval(ast.unparse(base), {**names}))  # noqa: S307  # our own code


@cache
def private_names_of(kind: Any) -> set[str]:
    """Return the private names that another library has defined on a class, or sets on objects of it."""
    names = set()
    for base in getattr(kind, "__mro__", ()):
        if base.__module__.partition(".")[0] in LIBRARIES:
            names |= {*vars(base), *re.findall(r"\bself\.(\w+)", getsource(base))}
    return {name for name in names if private(name) and not name.startswith(("_abc_", "_is_protocol"))}


@cache
def used() -> set[tuple[str, str]]:
    uses_by_path = {(path, name) for path, tree in trees().items() for name in uses(tree)}
    for path, tree in trees().items():
        if path == TRITON and find_spec("triton") is None:
            continue
        module = import_module(f"{PACKAGE}.{path.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"))
        uses_by_path |= {(path, name) for names in overridden(tree, vars(module)) for name in names}
    return uses_by_path


def library(path: str) -> str | None:
    match = _OF_LIBRARY.fullmatch(Path(path).name)
    return match[1] if match else None


@cases(
    "code",
    [
        "from torch import _other",
        "from torch import _other as known",
        "import torch._other",
        "import torch.nn, torch._other as known",
        "from torch.nn import (functional, _other)",
        "known = importlib.import_module('torch._other')",
        "known = torch._other",
        "known.anything()._other = 1",
        "del known._other",
        "known = vars(torch)['_other']",
        "known = torch.__dict__['_other']",
        "known = getattr(torch, '_other', None)",
        "object.__setattr__(torch, '_other', None)",
        "known = attrgetter('nn._other')",
        "known = patch('torch._other.public')",
        "known(_other=False)",
        "class Known(Base):\n    def known(self): return self._other",
        "class Known(Base):\n    def known(self): return super()._other()",
    ],
)
def test_a_private_name_is_seen_however_it_is_written(code: str) -> None:
    assert list(uses(ast.parse(code))) == ["_other"]


class Bending(StepLR):
    _other: Any = 1

    def _initial_step(self) -> None:
        self._other = self._last_lr = []


def test_what_a_class_defines_anew_or_sets_on_itself_is_seen() -> None:
    assert list(overridden(ast.parse(getsource(Bending)), globals())) == [{"_initial_step", "_last_lr"}]
    assert list(uses(ast.parse("from torch._other import one, two"))) == ["one", "two"]


def test_what_is_wrong_with_a_name_is_told() -> None:
    def broken(trainer: Trainer) -> Any:
        raise ModuleNotFoundError(trainer)

    trainer: Any = "no module"
    rows = (
        Row("torch", "_gone", itself, ""),
        Row("torch", "_gone", broken, ""),
        Row("torch", "join", itself, "", takes="x"),
    )
    assert [row.fault(trainer) for row in rows] == ["is gone", "ModuleNotFoundError('no module')", "takes iterable"]


def test_a_private_name_stands_in_the_module_of_its_library_alone() -> None:
    assert {pair for pair in used() if library(pair[0]) is None} == set()


def test_every_private_name_is_in_the_table() -> None:
    of_libraries = {(str(library(path)), name) for path, name in used() if library(path)}
    assert of_libraries - TABLE == set()


def test_every_row_is_used() -> None:
    names = {(str(library(path)), name) for path, name in used() if library(path)}
    names |= {
        (str(library(path)), node.value)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if library(path) and isinstance(node, ast.Constant) and node.value in REPLACED
    }
    assert TABLE - names == set()
