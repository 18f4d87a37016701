"""The command line: its parser, its one-line errors, stored configs, and the tables after a run."""

from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
from lightning_sparsegrad.cli.sparsegrad_cli import SparseGradCLI

__all__ = ["SparseGradArgumentParser", "SparseGradCLI"]
