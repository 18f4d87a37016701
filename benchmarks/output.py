"""The output of a report: terminal, JSON file and plot."""

from collections.abc import Callable

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.options import Options
from benchmarks.report import Report


def publish(report: Report, options: Options, draw: Callable[[Report], Figure]) -> None:
    """Show a report, and write its JSON file and its plot to the folder of the options."""
    if options.quick:
        report.notes.append("--quick: targets are meant for the full run; small sizes mostly show fixed costs")
        report.notes.append("--quick: without the fused mask, which takes long to compile")
    console = Console()
    report.show(console)
    data = report.write_json(options.output)
    plot = data.with_suffix(".png")
    draw(report).savefig(plot, dpi=150)
    console.print(f"Written: {data} and {plot}", highlight=False)
