"""Restrictions on the modules that a config or a checkpoint may import, since importing a module runs it."""

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
    """A refused name, whose lookup would run a module."""


@contextmanager
def named_by_checkpoint(path: Path, but: Iterable[str] = ()) -> Iterator[None]:
    """Treat names as a checkpoint's, for which modules in the checkpoint's folder are not imported.

    Args:
        path: The checkpoint.
        but: Names that the user gives as well, for which they are imported.
    """
    token = _of_checkpoint.set((path.absolute().parent, frozenset(but)))
    try:
        yield
    finally:
        _of_checkpoint.reset(token)


def require_importable(path: str) -> None:
    """Refuse a dotted name whose lookup would import a module that cannot define a class or function of the user.

    Names in modules that are already imported are allowed. A module is not imported if it belongs to Python's standard
    library, if its source does not bind the name at the top level, or, for a checkpoint, if it lies in the checkpoint's
    folder, where the author of the checkpoint may have put it.

    Args:
        path: A dotted name of a class, a function or one of its attributes.

    Raises:
        ImportRefusedError: If it is refused. A missing module is reported by the import itself.
    """
    if _SPECIAL.search(path):
        raise ImportRefusedError(f"`{path}` is not looked up: names such as `__main__` are Python's own")
    parts = path.split(".")
    module, name = _longest_module(parts)
    if module is None or module.name in sys.modules:
        return
    origin = module.origin if module.has_location else None
    if module.origin in ("built-in", "frozen") or is_standard(origin):
        raise ImportRefusedError(f"`{path}` is not imported: `{module.name}` is part of Python's standard library")
    if origin is None:
        return
    folder, named_by_user = _of_checkpoint.get() or (None, ())
    if folder is not None and path not in named_by_user and Path(origin).absolute().is_relative_to(folder):
        raise ImportRefusedError(f"`{path}` is not imported for a checkpoint: `{origin}` lies beside it")
    if origin.endswith(".py") and name and not _binds(Path(origin), name):
        raise ImportRefusedError(f"`{path}` is not imported: `{origin}` defines no `{name}`")


def is_standard(file: str | None) -> bool:
    """Return whether a file belongs to Python's standard library."""
    if file is None:
        return False
    folders = {kind: Path(get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    inside = {kind for kind, folder in folders.items() if Path(file).is_relative_to(folder)}
    return bool(inside) and not inside & {"purelib", "platlib"}


def _longest_module(parts: list[str]) -> tuple[ModuleSpec | None, str]:
    """Return the innermost module of a dotted name and the name in it, without importing anything."""
    innermost, where = None, None
    for depth, word in enumerate(parts[:-1], start=1):
        spec = _spec(".".join(parts[:depth]), where)
        if spec is None:
            return innermost, word
        innermost, where = spec, getattr(sys.modules.get(spec.name), "__path__", spec.submodule_search_locations)
        if where is None:
            return innermost, parts[depth]
    return innermost, parts[-1]


def _spec(name: str, where: Any) -> ModuleSpec | None:
    if name in sys.modules:
        return ModuleSpec(name, None)
    for finder in sys.meta_path:
        spec: ModuleSpec | None = finder.find_spec(name, where)
        if spec is not None:
            return spec
    return None


def _binds(file: Path, name: str) -> bool:
    """Return whether running a source file would bind a name, as far as its syntax tree shows."""
    try:
        source = file.read_bytes()
        names = set(_bound(ast.parse(source)))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the import will report it
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
