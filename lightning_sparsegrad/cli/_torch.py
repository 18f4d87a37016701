"""A stand-in for torch's compiler, which Lightning imports and commands that only print do not need.

No public switch prevents the import. `tests/private_names.py` checks the stand-in against the installed version.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"  # Lightning 2.6 uses one class of it, and marks methods that only a fit calls


class _Compiler(ModuleType):
    """The names of `torch._dynamo` that importing Lightning requires."""

    OptimizedModule = type("OptimizedModule", (), {})

    @staticmethod
    def disable(function: Any = None, *_: Any, **__: Any) -> Any:
        return function


@contextmanager
def without_compiler() -> Iterator[None]:
    """Replace torch's compiler during imports, which saves seconds. No upstream issue."""
    compiler = sys.modules.setdefault(_COMPILER, _Compiler(_COMPILER))
    try:
        yield
    finally:
        if isinstance(compiler, _Compiler):
            del sys.modules[_COMPILER]
