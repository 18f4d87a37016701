"""Check the laws and measure the costs on a GPU, within some minutes, the most telling first."""

import subprocess
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from time import monotonic
from typing import Any

import torch

from benchmarks.gpu.costs import measure_costs
from benchmarks.gpu.journal import Journal, Result
from benchmarks.gpu.laws import LAWS, Law, UnsupportedError
from benchmarks.gpu.shapes import BERT, FULL, LLAMA, MIXED, TRUE, XLM_R
from benchmarks.machine import describe_machine


@dataclass(frozen=True)
class Item:
    """A stretch of work.

    Args:
        name: Its name.
        run: Yields its results.
        seconds: About how long it takes on a GPU; it is not begun with less time left.
    """

    name: str
    run: Callable[[], Iterator[Result]]
    seconds: float


def make_plan(device: torch.device, *, quick: bool) -> list[Item]:
    """Return what there is to do, in the order of its worth."""
    laws = [Item(name, partial(check_law, name, law, device), 10) for name, law in LAWS.items()]
    shapes = [(XLM_R, MIXED, 60), (LLAMA, TRUE, 60), (BERT, FULL, 40)]
    shapes += [] if quick else [(XLM_R, TRUE, 50), (BERT, MIXED, 40)]
    costs = [
        Item(f"{shape.name}, {precision}", partial(measure_costs, shape, precision, device, quick=quick), seconds)
        for shape, precision, seconds in shapes
    ]
    return [*laws, *costs]


def check_law(name: str, law: Law, device: torch.device) -> Iterator[Result]:
    """Yield how a law does."""
    before = monotonic()
    try:
        verdict, figures = "holds", law(device)
    except UnsupportedError as error:
        verdict, figures = "unsupported", str(error)
    except AssertionError as error:
        verdict, figures = "failed", str(error) or traceback.format_exc(limit=-1)
    yield Result("Laws", name, {"verdict": verdict, "figures": figures, "time [s]": round(monotonic() - before, 2)})


def run_plan(plan: Sequence[Item], journal: Journal, deadline: float) -> None:
    """Do what there is time for; an error ends its item alone."""
    for item in plan:
        if monotonic() + item.seconds > deadline:
            journal.add(Result("Left out for want of time", item.name, {}))
            continue
        try:
            for result in item.run():
                journal.add(result)
                print(result.section, result.name, result.values, sep=" | ", flush=True)  # noqa: T201  # progress
        except Exception as error:  # the rest is worth as much
            traceback.print_exc()
            journal.add(Result("Errors", item.name, {"error": f"{type(error).__name__}: {error}", "verdict": "failed"}))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def describe_card() -> dict[str, Any]:
    """Return the driver, the clocks and the temperature that `nvidia-smi` reads now, if there is one."""
    command = which("nvidia-smi")
    if command is None:
        return {}
    fields = ("driver_version", "clocks.sm", "clocks.mem", "power.limit", "temperature.gpu")
    query = [command, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    read = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603  # our own arguments
    return dict(zip(fields, map(str.strip, read.stdout.split(",")), strict=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return 1 if a law failed or a target was missed."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the two new files")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models and few repeats, to check that it runs")
    read = parser.parse_args(arguments)
    deadline = monotonic() + 60 * read.minutes
    device = torch.device(read.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("Parameter `device` should be 'cpu' where torch sees no GPU. Found `device = 'cuda'`.")
    settings = {"minutes": read.minutes, "quick": read.quick}
    journal = Journal(read.output, {**describe_machine(device), **describe_card(), **settings})
    run_plan(make_plan(device, quick=read.quick), journal, deadline)
    if card := describe_card():
        journal.add(Result("The card at the end", "", card))
    print(f"Written: {journal.lines} and {journal.page}")  # noqa: T201  # where to look
    for failure in journal.failures:
        print(f"Failed: {failure}")  # noqa: T201  # what to look at
    return int(bool(journal.failures))


if __name__ == "__main__":
    sys.exit(main())
