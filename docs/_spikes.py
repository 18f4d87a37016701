"""Pictures of gradient norms and learnt thresholds over a run with bad batches."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

EVERY, AFTER, STEPS = 20, 100, 240
BAD_BATCHES = {
    "data.batch_size": 16,
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": STEPS,
    "trainer.callbacks+": "benchmarks.studies.spikes.BadBatches",
    "trainer.callbacks.every": EVERY,
    "trainer.callbacks.after": AFTER,
}
"""Arguments of the run, by name."""

_SHOWN = 4  # components, where each has a threshold of its own
_BEFORE, _AFTER, _THRESHOLD, _BAD = "#999999", "#0072B2", "#F2AE7E", "#F0E442"


def draw_spikes(history: pd.DataFrame) -> Figure:
    """Draw norms before and after a strategy, and its threshold, over the steps of a run with bad batches.

    There is one panel if all gradients share a threshold, else one for each of a few components.

    Args:
        history: What a `GradientMonitor` recorded in every step.
    """
    rows = list(_rows(history))
    figure = Figure(figsize=(8, 3.2 if len(rows) == 1 else 5.2), layout="constrained")
    panels = figure.subplots(len(rows) // 2 or 1, min(2, len(rows)), sharex=True, squeeze=False).flatten()
    for panel, (name, norms) in zip(panels, rows, strict=True):
        for step in range(AFTER, STEPS):
            if (step + 1) % EVERY == 0:
                panel.axvspan(step - 1, step + 1, color=_BAD, alpha=0.5, linewidth=0, label="bad batch")
        is_left_out = (norms["after"] == 0) & (norms["before"] > 0)
        lines = norms.assign(
            after=norms["after"].mask(is_left_out), threshold=norms["threshold"].replace(np.inf, np.nan)
        )
        panel.plot(lines.index, lines["before"], color=_BEFORE, linewidth=1, label="norm before")
        panel.plot(
            lines.index, lines["threshold"], "o-", color=_THRESHOLD, linewidth=3, markersize=3, label="threshold"
        )
        panel.plot(lines.index, lines["after"], color=_AFTER, linewidth=1, label="norm after")
        if is_left_out.any():
            left_out = norms["before"][is_left_out]
            panel.scatter(left_out.index, left_out, color="black", marker="x", s=28, zorder=3, label="window left out")
        panel.set_yscale("log")
        panel.set_title(name, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.grid(color="#dddddd", linewidth=0.6)
    labels = {label: line for line, label in zip(*panels[0].get_legend_handles_labels(), strict=True)}
    figure.legend(
        labels.values(), labels.keys(), loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9
    )
    figure.supylabel("gradient norm", fontsize=9)
    for panel in panels[-2:]:
        panel.set_xlabel("optimizer step", fontsize=9)
    return figure


def _rows(history: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a name, and norms and threshold by step: of all gradients together, or of a few matrices."""
    by_step = history.groupby("step")
    if (by_step["threshold"].nunique(dropna=True) <= 1).all():
        norms = by_step[["norm_before", "norm_after"]].agg(lambda column: np.sqrt(column.pow(2).sum()))
        yield "all gradients", _named(norms.assign(threshold=by_step["threshold"].min()))
        return
    names = history.drop_duplicates("component").query("not vector")["component"].tolist()
    for index in np.linspace(0, len(names) - 1, _SHOWN).round().astype(int):
        of_one = history[history["component"] == names[index]].set_index("step").sort_index()
        yield names[index].removeprefix("model."), _named(of_one)


def _named(norms: pd.DataFrame) -> pd.DataFrame:
    return norms.rename(columns={"norm_before": "before", "norm_after": "after"})[["before", "after", "threshold"]]
