"""The command line: parser, one-line errors, stored configs, and the tables printed after a run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
    from lightning_sparsegrad.cli.sparsegrad_cli import SparseGradCLI

__all__ = ["SparseGradArgumentParser", "SparseGradCLI"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_sparsegrad.cli import sparsegrad_cli  # imports Lightning, which `main` must set up first

    return getattr(sparsegrad_cli, name)
