"""The plot of growth, as lines over the number of parameters and of tensors."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import LINES, MARKERS, title_of
from benchmarks.report import Report

_AXES = {"ns per parameter": "parameters", "us per tensor": "tensors"}
_TARGETS = {"us per tensor": {"target, mask": 25.0, "target, clip": 10.0}}

Points = list[tuple[int, float]]


def draw_growth(report: Report) -> Figure:
    """Draw one panel per kind of growth; a flat line is linear growth."""
    series: dict[str, dict[str, Points]] = report.settings["series"]
    figure = Figure(figsize=(14, 6.5), layout="constrained")
    for panel, (column, lines) in zip(figure.subplots(1, len(series)), series.items(), strict=True):
        _draw_panel(panel, column, lines)
    figure.suptitle(title_of(report))
    return figure


def _draw_panel(panel: Axes, column: str, lines: dict[str, Points]) -> None:
    kernels = list(dict.fromkeys(_kernel(line) for line in lines))
    for line, points in lines.items():
        index = kernels.index(_kernel(line))
        panel.plot(
            [count for count, _ in points],
            [value for _, value in points],
            color=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle="--" if line.endswith("differ") else "-",
            label=line,
        )
    for style, (label, bound) in zip((":", "-."), _TARGETS.get(column, {}).items(), strict=False):
        panel.axhline(bound, color="#888888", linestyle=style, linewidth=1, label=label)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel(_AXES[column])
    panel.set_ylabel(column)
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, frameon=False)


def _kernel(line: str) -> str:
    """Return the kernel's name without the kind of sizes, which the line's style shows."""
    return line.removesuffix(", equal sizes").removesuffix(", all sizes differ")
