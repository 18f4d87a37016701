"""Which modules a name in a config or a checkpoint may have imported: importing a module runs it."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from pathlib import Path
from sysconfig import get_path
from typing import Any

from lightning_sparsegrad.errors import ConfigurationError

_SPECIAL = re.compile(r"\.__\w+__(?:\.|$)")  # `pip.__main__.x`, `torch.__builtins__.x`; not `__main__.MyModel`
_MAY_BIND = (b"sys.modules", b"globals()", b"vars()", b"exec(")
_of_checkpoint: ContextVar[tuple[Path, frozenset[str]] | None] = ContextVar("folder of the checkpoint", default=None)


class ImportRefusedError(ConfigurationError):
    """A name that is not looked up, since that would run a module for the sake of it."""


@contextmanager
def named_by_checkpoint(path: Path, but: Iterable[str] = ()) -> Iterator[None]:
    """Take names for those of a checkpoint: modules that lie beside it are not imported.

    Args:
        path: The checkpoint.
        but: Names that the user gives as well, for which they are.
    """
    token = _of_checkpoint.set((path.absolute().parent, frozenset(but)))
    try:
        yield
    finally:
        _of_checkpoint.reset(token)


def require_importable(path: str) -> None:
    """Refuse a dotted name whose lookup would import what no class or function of the user's can be in.

    What is imported already can be named. Of other modules, neither those of Python's own library are imported, nor one
    whose source binds no such name at its top level, nor, for a checkpoint, one that lies beside it: whoever packed the
    checkpoint may have put it there.

    Args:
        path: A dotted name, of a class, a function or one of its attributes.

    Raises:
        ImportRefusedError: If it is refused. That there is no such module is for who imports it to say.
    """
    if _SPECIAL.search(path):
        raise ImportRefusedError(f"`{path}` is not looked up: names such as `__main__` are Python's own")
    parts = path.split(".")
    module, name = _longest_module(parts)
    if module is None or module.name in sys.modules:
        return
    origin = module.origin if module.has_location else None
    if module.origin in ("built-in", "frozen") or is_standard(origin):
        raise ImportRefusedError(f"`{path}` is not imported: `{module.name}` of Python's library is of no use here")
    if origin is None:
        return
    folder, named_by_user = _of_checkpoint.get() or (None, ())
    if folder is not None and path not in named_by_user and Path(origin).absolute().is_relative_to(folder):
        raise ImportRefusedError(f"`{path}` is not imported for a checkpoint: `{origin}` lies beside it")
    if origin.endswith(".py") and name and not _binds(Path(origin), name):
        raise ImportRefusedError(f"`{path}` is not imported: `{origin}` defines no `{name}`")


def is_standard(file: str | None) -> bool:
    """Return whether a module's file is of Python's own library."""
    if file is None:
        return False
    folders = {kind: Path(get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    inside = {kind for kind, folder in folders.items() if Path(file).is_relative_to(folder)}
    return bool(inside) and not inside & {"purelib", "platlib"}


def _longest_module(parts: list[str]) -> tuple[ModuleSpec | None, str]:
    """Return the innermost module of a dotted name, and what is named in it, without importing anything."""
    found, where = None, None
    for depth, part in enumerate(parts[:-1], start=1):
        spec = _spec(".".join(parts[:depth]), where)
        if spec is None:
            return found, part
        found, where = spec, getattr(sys.modules.get(spec.name), "__path__", spec.submodule_search_locations)
        if where is None:
            return found, parts[depth]
    return found, parts[-1]


def _spec(name: str, where: Any) -> ModuleSpec | None:
    if name in sys.modules:
        return ModuleSpec(name, None)
    for finder in sys.meta_path:
        found: ModuleSpec | None = finder.find_spec(name, where)
        if found is not None:
            return found
    return None


def _binds(file: Path, name: str) -> bool:
    """Return whether a source binds a name when it is run, as far as can be told without running it."""
    try:
        source = file.read_bytes()
        names = set(_bound(ast.parse(source)))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # who imports it says so
        return True
    return bool(names & {name, "*", "__getattr__"}) or any(word in source for word in _MAY_BIND)


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child.name
            continue
        if isinstance(child, ast.alias):
            yield child.asname or child.name.partition(".")[0]
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        yield from _bound(child)
