"""Plots of reports, in colours that people with colour blindness can tell apart (Okabe and Ito, 2008)."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.report import Report, Row, format_number

COLOURS = {"ours": "#0072B2", "torch": "#555555", "naive": "#E69F00", "peer": "#CC79A7"}
LABELS = {"ours": "this library", "torch": "torch", "naive": "naive code", "peer": "other packages"}
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LOGARITHMIC = 20.0  # ratio of the longest to the shortest bar from which the scale is logarithmic


def draw_bars(report: Report) -> Figure:
    """Draw a panel per column and a bar per arm; whiskers are quartiles, numbers are medians."""
    columns = report.columns
    figure = Figure(figsize=(4.0 + 4.0 * len(columns), 1.6 + 0.3 * len(report.rows)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        _draw_panel(panel, report.rows, column)
    panels[0].set_yticks(range(len(report.rows)), [row.arm for row in report.rows])
    panels[0].invert_yaxis()
    groups = dict.fromkeys(row.group for row in report.rows)
    handles = [Patch(color=COLOURS[group], label=LABELS[group]) for group in groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title_of(report))
    return figure


def _draw_panel(panel: Axes, rows: Sequence[Row], column: str) -> None:
    heights = [height for height, row in enumerate(rows) if column in row.values]
    summaries = [rows[height].values[column] for height in heights]
    values = [summary.value for summary in summaries]
    whiskers = [
        [max(0.0, summary.value - summary.lower) for summary in summaries],
        [max(0.0, summary.upper - summary.value) for summary in summaries],
    ]
    colours = [COLOURS[rows[height].group] for height in heights]
    panel.barh(heights, values, xerr=whiskers, color=colours, error_kw={"elinewidth": 1, "ecolor": "#222222"})
    positive = [value for value in values if value > 0]
    logarithmic = bool(positive) and max(positive) / min(positive) > LOGARITHMIC
    if logarithmic:
        panel.set_xscale("log")
        panel.set_xlim(min(positive) / 3, max(positive) * 4)
    else:
        panel.set_xlim(0, max(*[summary.upper for summary in summaries], 1e-9) * 1.25)
    for height, summary in zip(heights, summaries, strict=True):
        end = max(summary.upper, summary.value)
        if logarithmic and end <= 0:
            end = min(positive) / 3
        label = format_number(summary.value)
        panel.annotate(label, (end, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    panel.set_xlabel(column + (", logarithmic" if logarithmic else ""))
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)


def title_of(report: Report) -> str:
    """Return the title of a plot: benchmark, machine and version of torch."""
    machine = report.machine
    where = machine.get("accelerator", f"{machine['processor']}, threads: {machine['threads']}")
    return f"{report.benchmark}: {where}, torch {machine['torch']}"
