"""Options that the command line of every benchmark takes."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    """How a benchmark is run.

    Args:
        quick: Small model and few repeats, nothing compiled: to see that it runs, not to quote a number.
        repeats: Rounds over all arms; `None` for the benchmark's own number.
        output: Folder of the JSON file and the plot.
        device: Where to compute.
    """

    quick: bool
    repeats: int | None
    output: Path
    device: torch.device

    def rounds(self, *, full: int, quick: int) -> int:
        """Return the number of repeats: what was asked for, or the benchmark's own."""
        if self.repeats is not None:
            return self.repeats
        return quick if self.quick else full


def make_parser(description: str | None) -> ArgumentParser:
    """Return the parser of the options all benchmarks share."""
    parser = ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small model, few repeats, nothing compiled")
    parser.add_argument("--repeats", type=_positive, help="rounds over all arms")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of JSON and plot")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cuda if there is one, by default")
    return parser


def parse_options(description: str | None, arguments: Sequence[str] | None = None) -> Options:
    """Read the options of one benchmark from the command line."""
    read = make_parser(description).parse_args(arguments)
    return make_options(read.quick, read.repeats, read.output, read.device)


def make_options(quick: bool, repeats: int | None, output: Path, device: str | None) -> Options:
    """Fill in the default device."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Options(quick, repeats, output, torch.device(chosen))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(f"Parameter `repeats` should be positive. Found `repeats = {value}`.")
    return value
