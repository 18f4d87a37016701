"""The command-line options of all benchmarks."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    """The options of a benchmark.

    Args:
        quick: Small model, few repeats and nothing compiled, to check that it runs; the numbers mean nothing.
        repeats: The number of repeats of all arms; `None` for the benchmark's own number.
        output: The folder of the JSON file and the plot.
        device: The device to compute on.
    """

    quick: bool
    repeats: int | None
    output: Path
    device: torch.device

    def rounds(self, *, full: int, quick: int) -> int:
        """Return the number of repeats that the user gave, or the benchmark's own."""
        if self.repeats is not None:
            return self.repeats
        return quick if self.quick else full


def make_parser(description: str | None) -> ArgumentParser:
    """Return the parser of the options that all benchmarks share."""
    parser = ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small model, few repeats, nothing compiled")
    parser.add_argument("--repeats", type=_positive, help="number of repeats of all arms")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of JSON and plot")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default cuda if available")
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
