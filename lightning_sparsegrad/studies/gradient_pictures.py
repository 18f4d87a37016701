"""Pictures of gradients and weights over training, from the files of `GradientMonitor` and `PretrainedDistance`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lightning_sparsegrad.callbacks._history import read_history
from lightning_sparsegrad.studies._comparison import Summary
from lightning_sparsegrad.studies._study import Study

_GRADIENTS, _DISTANCES = "gradients.parquet", "distances.parquet"
_ACROSS = 4  # panels
_TICKS = 12  # names beside a heat map
_LINES = 14  # names in a legend


def draw(study: Study, summaries: Sequence[Summary]) -> dict[str, tuple[Figure | None, str]]:
    """Draw the recordings of runs, and return figures and captions by file name; no figure if no run recorded it."""
    gradients = {id(summary): _read(summary, _GRADIENTS) for summary in summaries}
    distances = {id(summary): _read(summary, _DISTANCES) for summary in summaries}
    plain = [summary for summary in summaries if summary.arm == study.reference]
    return {
        "clip_rate.png": (
            _draw_clip_rate(summaries, gradients),
            "Share of the components that were clipped over training, mean over the runs.",
        ),
        "norms.png": (
            _draw_norms(plain, gradients),
            f"Median gradient norm of each layer over training under `{study.reference}`, failed runs separately.",
        ),
        "heatmap.png": (
            _draw_heatmap(plain, gradients),
            f"Median gradient norm of each component over training under `{study.reference}`, failed runs separately.",
        ),
        "distances.png": (
            _draw_distances(summaries, distances),
            "Distance of each layer from its pretrained weights over training: root mean square over its components, "
            "median over the runs.",
        ),
        "directions.png": (
            _draw_directions(summaries, distances),
            "Change of direction of each layer from its pretrained weights at the end: one minus the cosine, mean over "
            "its components, median over the runs; white where it is zero.",
        ),
    }


def draw_gradients(history: pd.DataFrame) -> Figure:
    """Draw the recording of a `GradientMonitor`: clip rate, norms of layers, norms of components.

    Args:
        history: The recording, as `read_history` returns it.
    """
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    rates, norms, map_ = figure.subplots(1, 3)
    by_step = _with_gradients(history).groupby("step")[["clipped", "kept"]].mean()
    for column, colour, style, label in (
        ("clipped", "#0072B2", "-", "share of components clipped"),
        ("kept", "#D55E00", "--", "mean share of entries kept"),
    ):
        marker = "." if len(by_step) == 1 else ""  # a line needs two
        rates.plot(by_step.index, by_step[column], color=colour, linestyle=style, marker=marker, label=label)
    rates.set_ylim(-0.03, 1.03)
    rates.set_xlabel("optimizer steps")
    rates.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    _plot_layers(norms, _norms_of_layers([history]))
    norms.set_ylabel("gradient norm before")
    norms.set_xlabel("optimizer steps")
    norms.legend(*_labels([norms]), frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _show_map(figure, [map_], [history])
    return figure


def _read(summary: Summary, name: str) -> dict[bool, list[pd.DataFrame]]:
    """Return the recordings of the runs of an arm, by whether the run has failed."""
    histories: dict[bool, list[pd.DataFrame]] = {False: [], True: []}
    for run in summary.results.values():
        path: Path = run.folder / name
        if path.is_file():
            histories[run.failed].append(read_history(path))
    return histories


def _draw_clip_rate(
    summaries: Sequence[Summary], gradients: dict[int, dict[bool, list[pd.DataFrame]]]
) -> Figure | None:
    settings = list(dict.fromkeys(summary.setting for summary in summaries))
    rates: dict[str, dict[str, pd.Series]] = {setting: {} for setting in settings}
    for summary in summaries:
        histories = [history for of_kind in gradients[id(summary)].values() for history in of_kind]
        if histories:
            rates[summary.setting][summary.arm] = (
                _with_gradients(pd.concat(histories)).groupby("step")["clipped"].mean()
            )
    arms = list(dict.fromkeys(arm for of_setting in rates.values() for arm, rate in of_setting.items() if rate.any()))
    if not arms:
        return None
    rows = -(-len(settings) // _ACROSS)
    figure, panels = make_panels(len(settings), 4.2, max(2.8, 0.22 * len(arms) / rows), beside=2.2)
    colours = dict(zip(arms, _shades(len(arms)), strict=True))
    markers = dict(zip(arms, "os^DvPX*h<>" * len(arms), strict=False))
    for panel, setting in zip(panels, settings, strict=True):
        for arm in arms:
            if arm in rates[setting]:
                rate = rates[setting][arm]
                panel.plot(rate.index, rate, color=colours[arm], marker=markers[arm], markersize=4, label=arm)
        panel.set_title(setting, fontsize=10)
        panel.set_ylim(-0.03, 1.03)
        panel.grid(color="#dddddd", linewidth=0.6)
    figure.supxlabel("optimizer steps", fontsize=10)
    figure.supylabel("share of components clipped", fontsize=10)
    figure.legend(*_labels(panels, len(arms)), loc="outside right center", frameon=False)
    return figure


def _draw_norms(plain: Sequence[Summary], gradients: dict[int, dict[bool, list[pd.DataFrame]]]) -> Figure | None:
    shown = [(summary, failed) for summary in plain for failed in (False, True) if gradients[id(summary)][failed]]
    if not shown:
        return None
    figure, panels = make_panels(len(shown), 3.6, 2.8, beside=1.6)
    for panel, (summary, failed) in zip(panels, shown, strict=True):
        _plot_layers(panel, _norms_of_layers(gradients[id(summary)][failed]))
        panel.set_title(_name(summary, failed, len(gradients[id(summary)][failed])), fontsize=10)
    figure.supylabel("gradient norm before", fontsize=10)
    figure.supxlabel("optimizer steps", fontsize=10)
    figure.legend(*_labels(panels), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_heatmap(plain: Sequence[Summary], gradients: dict[int, dict[bool, list[pd.DataFrame]]]) -> Figure | None:
    shown = [(summary, failed) for summary in plain for failed in (False, True) if gradients[id(summary)][failed]]
    if not shown:
        return None
    figure, panels = make_panels(len(shown), 3.4, 5.9, beside=3.4, share_x=False)
    for panel, (summary, failed) in zip(panels, shown, strict=True):
        panel.set_title(_name(summary, failed, len(gradients[id(summary)][failed])), fontsize=10)
    _show_map(figure, panels, [pd.concat(gradients[id(summary)][failed]) for summary, failed in shown])
    return figure


def _show_map(figure: Figure, panels: Sequence[Axes], histories: Sequence[pd.DataFrame]) -> None:
    """Draw norms by component and step, as medians over the runs."""
    grids = [
        history.groupby(["component", "step"], sort=False)["norm_before"].median().unstack("step")
        for history in histories
    ]
    grids = [grid[sorted(grid.columns)] for grid in grids]
    values = np.concatenate([grid.to_numpy().ravel() for grid in grids])
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = np.quantile(positive, [0.02, 1.0]) if positive.size else (0.1, 1.0)
    for panel, grid in zip(panels, grids, strict=True):
        steps = list(grid.columns)
        image = panel.imshow(
            grid.to_numpy(),
            aspect="auto",
            cmap="viridis",
            norm=LogNorm(low, max(high, low * 1.01)),
            interpolation="none",
        )
        ticks = np.unique(np.linspace(0, len(steps) - 1, 5).astype(int))
        panel.set_xticks(ticks, [str(steps[tick]) for tick in ticks])
        panel.set_xlabel("optimizer steps")
        panel.tick_params(axis="y", labelsize=7)
    names = [str(name).removeprefix("model.") for name in grids[0].index]
    ticks = np.unique(np.linspace(0, len(names) - 1, _TICKS).astype(int))
    panels[0].set_yticks(ticks, [names[tick] for tick in ticks])
    figure.colorbar(image, ax=list(panels), label="gradient norm before")


def _draw_distances(
    summaries: Sequence[Summary], distances: dict[int, dict[bool, list[pd.DataFrame]]]
) -> Figure | None:
    shown = [summary for summary in summaries if any(distances[id(summary)].values())]
    if not shown:
        return None
    figure, panels = make_panels(len(shown), 2.6, 2.1, beside=2.0)
    for panel, summary in zip(panels, shown, strict=True):
        histories = [history for of_kind in distances[id(summary)].values() for history in of_kind]
        rms = pd.concat([_by_layer(history, "rms", _root_mean_square) for history in histories])
        _plot_layers(panel, rms.groupby(["layer", "step"], sort=False).median(), logarithmic=False)
        panel.set_title("\n".join(filter(None, (summary.arm, summary.setting))), fontsize=9)
    figure.supxlabel("optimizer steps", fontsize=10)
    figure.supylabel("root mean square distance\nfrom the pretrained weights", fontsize=10)
    figure.legend(*_labels(panels), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_directions(
    summaries: Sequence[Summary], distances: dict[int, dict[bool, list[pd.DataFrame]]]
) -> Figure | None:
    shown = [summary for summary in summaries if any(distances[id(summary)].values())]
    if not shown:
        return None
    rows = {}
    for summary in shown:
        histories = [history for of_kind in distances[id(summary)].values() for history in of_kind]
        ends = [history[history["step"] == history["step"].max()] for history in histories]
        turned = pd.concat([1 - end.groupby("layer", sort=False)["cosine"].mean() for end in ends], axis=1).median(
            axis=1
        )
        rows[", ".join(filter(None, (summary.arm, summary.setting)))] = turned
    table = pd.DataFrame(rows).T
    values = table.to_numpy()
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return None
    figure = Figure(figsize=(3.6 + 0.55 * table.shape[1], 1.6 + 0.3 * len(table)), layout="constrained")
    panel = figure.subplots()
    scale = LogNorm(positive.min(), max(positive.max(), positive.min() * 1.01))
    image = panel.imshow(values, aspect="auto", cmap="viridis", norm=scale)
    panel.set_yticks(range(len(table)), list(table.index), fontsize=8)
    panel.set_xticks(range(table.shape[1]), list(table.columns), rotation=90, fontsize=8)
    figure.colorbar(image, ax=panel, label="1 - cosine")
    return figure


def make_panels(
    count: int, width: float, height: float, *, beside: float, share_x: bool = True
) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with rows of panels of a size, and room for a legend beside them."""
    across = min(_ACROSS, count)
    down = -(-count // across)
    figure = Figure(figsize=(width * across + beside, height * down + 0.6), layout="constrained")
    panels = figure.subplots(down, across, sharex=share_x, sharey=True, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels[count - across : count]:  # the last of its column
        panel.tick_params(labelbottom=True)
    return figure, list(panels[:count])


def _with_gradients(history: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of components whose gradient existed or was dropped: frozen ones have no share to keep."""
    return history[history["kept"].notna()]


def _labels(panels: Iterable[Axes], most: int = _LINES) -> tuple[list[Artist], list[str]]:
    """Return lines and labels for a legend of the panels, thinned evenly to `most` of them."""
    lines: dict[str, Artist] = {}
    for panel in panels:
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True):
            lines.setdefault(str(label), line)
    indices = np.unique(np.linspace(0, len(lines) - 1, most).astype(int))
    labels = [list(lines)[index] for index in indices]
    return [lines[label] for label in labels], labels


def _norms_of_layers(histories: Sequence[pd.DataFrame]) -> pd.Series:
    """Return the median norm over runs by layer and step; a layer's norm is that of its components together."""
    norms = pd.concat([_by_layer(history, "norm_before", _norm) for history in histories])
    return norms.groupby(["layer", "step"], sort=False).median()


def _by_layer(history: pd.DataFrame, column: str, join: object) -> pd.Series:
    return history.groupby(["layer", "step"], sort=False)[column].agg(join)


def _norm(norms: pd.Series) -> float:
    return float(np.sqrt(norms.pow(2).sum(min_count=1)))


def _root_mean_square(values: pd.Series) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _plot_layers(panel: Axes, values: pd.Series, *, logarithmic: bool = True) -> None:
    layers = list(dict.fromkeys(values.index.get_level_values("layer")))
    for layer, colour in zip(layers, _shades(len(layers)), strict=True):
        of_layer = values[layer]
        panel.plot(
            of_layer.index, of_layer, color=colour, marker=".", markersize=4, linewidth=1.2, label=layer or "all"
        )
    if logarithmic and (values > 0).any():
        panel.set_yscale("log")
    panel.grid(color="#dddddd", linewidth=0.6)


def _shades(count: int) -> Iterable[tuple[float, ...]]:
    """Return shades that also differ in lightness."""
    shades: Iterable[tuple[float, ...]] = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count))
    return shades


def _name(summary: Summary, failed: bool, count: int) -> str:
    runs = "1 run that has" if count == 1 else f"{count} runs that have"
    return f"{summary.setting}\n{runs} {'failed' if failed else 'not failed'}".strip()
