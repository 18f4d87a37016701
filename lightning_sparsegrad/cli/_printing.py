"""Commands that only print help or a config, which skip the slow imports that they do not need."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from lightning_sparsegrad.cli._overview import COMMANDS
from lightning_sparsegrad.cli._torch import without_compiler

# Lightning imports torchmetrics, which imports these if they are installed
_OPTIONAL = {"matplotlib", "scipy", "transformers"}
_ENDED = {None, 0, 130, 143}  # done, or stopped by the user
_LONGEST = 1_000  # characters in a file name
_WHOLE = "SPARSEGRAD_WHOLE"  # environment variable that turns this module off


def only_prints(arguments: Sequence[str]) -> bool:
    """Return whether a command only prints help or a config, and skipping imports is possible.

    It is possible if nothing has imported Lightning yet and a second process can be started with the same arguments.
    """
    asks = any(argument in {"-h", "--help"} or argument.startswith("--print_config") for argument in arguments)
    if not asks or arguments[0] not in COMMANDS or "lightning" in sys.modules or _WHOLE in os.environ:
        return False
    is_of_process = sys.orig_argv[-len(arguments) :] == [*arguments]  # false in a notebook
    return is_of_process and not any(map(_is_read_once, arguments))


def _is_read_once(argument: str) -> bool:
    """Return whether an argument names a pipe, as `<(echo ...)` of a shell does, or stdin."""
    name = argument.rpartition("=")[2] if argument.startswith("-") else argument
    return argument == "-" or (0 < len(name) < _LONGEST and "\0" not in name and Path(name).is_fifo())


def print_only(command: Callable[[], object]) -> NoReturn:
    """Run a command that prints, with few imports; if it fails, run it again in a process with all imports.

    It fails, for example, if a config names a class whose module needs a package that was skipped.

    Args:
        command: The command.

    Raises:
        SystemExit: When the command ends.
    """
    errors = StringIO()
    try:
        with _left_out():
            import_module("lightning.pytorch.cli")
        with redirect_stderr(errors):
            command()
    except SystemExit as end:
        if end.code in _ENDED:
            sys.stderr.write(errors.getvalue())
            raise
    except Exception:  # noqa: S110  # the second process raises it again
        pass
    again = [sys.executable, *sys.orig_argv[1:]]
    raise SystemExit(subprocess.run(again, env={**os.environ, _WHOLE: "1"}, check=False).returncode)  # noqa: S603


class _Absent(Distribution):
    """A distribution that is not installed."""

    name = "absent"  # shown in the error

    @property
    @override
    def version(self) -> str:
        raise PackageNotFoundError(self.name)

    @override
    def read_text(self, filename: str) -> None:
        return None

    @override
    def locate_file(self, path: Any) -> NoReturn:
        raise PackageNotFoundError(self.name)


class _Finder(DistributionFinder):
    """An import finder that reports the optional packages as not installed."""

    @override
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in _OPTIONAL:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None

    @override
    def find_distributions(
        self,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008  # the signature of the base
    ) -> Iterator[Distribution]:
        return iter([_Absent()] if context.name in _OPTIONAL else [])


@contextmanager
def _left_out() -> Iterator[None]:
    finder: MetaPathFinder = _Finder()
    import_module("torch")
    sys.meta_path.insert(0, finder)
    try:
        with without_compiler():
            yield
    finally:
        sys.meta_path.remove(finder)
