"""The pictures of a report, in colours that people with colour blindness can tell apart (Okabe and Ito, 2008)."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightning_sparsegrad.files._writing import replacing
from lightning_sparsegrad.studies import gradient_pictures
from lightning_sparsegrad.studies._comparison import Summary
from lightning_sparsegrad.studies._inference import mean_interval
from lightning_sparsegrad.studies._report_tables import part_gain
from lightning_sparsegrad.studies._study import Study

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
_DOTS = 110  # per inch
_FULL_COLOUR = 0.8  # quantile of the gains that gets the darkest colour, so that one bad arm does not pale the others


def draw_all(study: Study, summaries: Sequence[Summary], folder: Path) -> dict[str, str]:
    """Draw all pictures for which there are data, and return the captions by file name."""
    figures: dict[str, tuple[Figure | None, str]] = {
        "distributions.png": (
            draw_distributions(study, summaries),
            "A point per run, mean and 95% interval below; crosses are failed runs, at the dashed line or worse.",
        ),
        "curves.png": (
            draw_curves(study, summaries),
            f"Over training: the mean of each arm with its 95% band; dashed, that of `{study.reference}`.",
        ),
        "parts.png": (
            draw_gains(study, summaries),
            f"Mean gain over `{study.reference}` by part of the data; a dot where the 95% interval has no zero.",
        ),
        **gradient_pictures.draw(study, summaries),
    }
    drawn = {}
    for name, (figure, caption) in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)  # from an earlier report
        else:
            _show_dollars(figure)
            with replacing(folder / name) as file:
                figure.savefig(file, format="png", dpi=_DOTS, metadata={"Software": None})
            drawn[name] = caption
    return drawn


def _show_dollars(figure: Figure) -> None:
    """Escape dollar signs in names; matplotlib reads text between two as mathematics, which its own labels need."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and "\\math" not in text.get_text() and "$" in text.get_text():
            text.set_parse_math(False)


def draw_distributions(study: Study, summaries: Sequence[Summary]) -> Figure | None:
    """Draw the values of all runs, with a panel for each setting and a row for each arm."""
    settings = list(dict.fromkeys(summary.setting for summary in summaries))
    arms = list(study.arms)
    figure = Figure(figsize=(1.8 + 4.2 * len(settings), 1.2 + 0.42 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for panel, setting in zip(panels, settings, strict=True):
        for summary in summaries:
            if summary.setting == setting:
                _draw_arm(panel, summary, arms.index(summary.arm))
        runs = [run for summary in summaries if summary.setting == setting for run in summary.results.values()]
        for bar in {run.bar for run in runs if run.failed and not isnan(run.bar)}:
            panel.axvline(bar, color=GREY, linestyle="--", linewidth=1)
        panel.set_title(setting, fontsize=10)
        panel.set_xlabel(study.metric)
        panel.grid(axis="x", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def _draw_arm(panel: Axes, summary: Summary, row: int) -> None:
    runs = [run for run in summary.results.values() if not isnan(run.value)]
    offsets = np.linspace(-0.26, 0.1, len(runs)) if len(runs) > 1 else np.zeros(1)
    for failed, marker, colour in ((False, "o", BLUE), (True, "x", ORANGE)):
        indices = [index for index, run in enumerate(runs) if run.failed == failed]
        values = [runs[index].value for index in indices]
        panel.scatter(values, row + offsets[indices], s=16, marker=marker, color=colour, alpha=0.7, linewidths=1)
    mean = summary.mean
    if not isnan(mean.value):
        whiskers = np.maximum([[mean.value - mean.low], [mean.high - mean.value]], 0.0)
        finite = whiskers if np.isfinite(whiskers).all() else None
        panel.errorbar(mean.value, row + 0.28, xerr=finite, fmt="D", color="black", markersize=4, capsize=2)


def draw_curves(study: Study, summaries: Sequence[Summary]) -> Figure | None:
    """Draw the metric over training, with a panel for each arm in each setting; skip runs validated only once."""
    shown = [summary for summary in summaries if len(_band(summary)) > 1]
    baselines = {summary.setting: summary for summary in shown if summary.arm == study.reference}

    if not shown:
        return None
    figure, panels = gradient_pictures.make_panels(len(shown), 2.6, 2.1, beside=0.8)
    for panel, summary in zip(panels, shown, strict=True):
        band = _band(summary)
        panel.fill_between(band["step"], band["low"], band["high"], color=BLUE, alpha=0.2, linewidth=0)
        panel.plot(band["step"], band["mean"], color=BLUE, marker="o", markersize=3)
        if summary.setting in baselines and summary.arm != study.reference:
            baseline = _band(baselines[summary.setting])
            panel.plot(baseline["step"], baseline["mean"], color=GREY, linestyle="--")
        panel.set_title("\n".join(filter(None, (summary.arm, summary.setting))), fontsize=9)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    figure.supxlabel("optimizer steps", fontsize=10)
    figure.supylabel(study.metric, fontsize=10)
    return figure


def _band(summary: Summary) -> pd.DataFrame:
    """Return the mean and its interval at each step that all runs of the arm have."""
    curves = [run.curve for run in summary.results.values() if run.curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    rows = []
    for step in steps:
        interval = mean_interval([curve[step] for curve in curves])
        rows.append({"step": step, "mean": interval.value, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows, columns=["step", "mean", "low", "high"]).replace([np.inf, -np.inf], np.nan)


def draw_gains(study: Study, summaries: Sequence[Summary]) -> Figure | None:
    """Draw the gains over the baseline, with a panel per setting, a row per arm and a column per part of the data."""
    baselines = {summary.setting: summary for summary in summaries if summary.arm == study.reference}
    parts = list(dict.fromkeys(part for summary in summaries for run in summary.results.values() for part in run.parts))
    shown = [summary for summary in summaries if summary.setting in baselines and summary.arm != study.reference]
    if not parts or not shown:
        return None
    settings = list(dict.fromkeys(summary.setting for summary in shown))
    rows = {setting: [summary for summary in shown if summary.setting == setting] for setting in settings}
    gains = {
        setting: [[part_gain(summary, baselines[setting], part) for part in parts] for summary in rows[setting]]
        for setting in settings
    }
    values = np.array([gain.value for of_setting in gains.values() for row in of_setting for gain in row])
    if np.isnan(values).all():
        return None
    limit = float(np.nanquantile(np.abs(values), _FULL_COLOUR)) or 1.0
    height = sum(len(of_setting) for of_setting in rows.values())
    figure = Figure(figsize=(3.0 + 0.34 * len(parts), 1.4 + 0.36 * height + 0.5 * len(settings)), layout="constrained")
    panels = figure.subplots(
        len(settings), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [len(rows[s]) for s in settings]}
    )[:, 0]
    for panel, setting in zip(panels, settings, strict=True):
        cells = np.array([[gain.value for gain in row] for row in gains[setting]])
        image = panel.imshow(cells, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        for position, row in enumerate(gains[setting]):
            for column, gain in enumerate(row):
                if gain.excludes_zero:
                    panel.plot(column, position, marker="o", markersize=4, color="black", markeredgecolor="white")
        panel.set_yticks(range(len(rows[setting])), [summary.arm for summary in rows[setting]], fontsize=9)
        panel.set_title(setting, fontsize=10)
    panels[-1].set_xticks(range(len(parts)), parts, fontsize=9, rotation=90 if max(map(len, parts)) > 3 else 0)
    label = f"gain in {study.metric.split('/')[1]}"
    figure.colorbar(image, ax=list(panels), label=label, shrink=0.8, extend="both")
    return figure
