"""The private module of torch that the import of Lightning asks for, left out by commands that only print.

No public name keeps it from being imported. It is checked against the installed version in `tests/private_names.py`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"  # Lightning 2.6 imports it for one class, and to mark methods that run in a fit alone


class _Compiler(ModuleType):
    """As much of `torch._dynamo` as the import of Lightning asks for."""

    OptimizedModule = type("OptimizedModule", (), {})

    @staticmethod
    def disable(function: Any = None, *_: Any, **__: Any) -> Any:
        return function


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import what asks for torch's compiler without it, which saves seconds. No upstream issue."""
    compiler = sys.modules.setdefault(_COMPILER, _Compiler(_COMPILER))
    try:
        yield
    finally:
        if isinstance(compiler, _Compiler):
            del sys.modules[_COMPILER]
