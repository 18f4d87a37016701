"""Pictures of what each overlay does to the gradients of a small model: `python -m docs.draw [OVERLAY ...]`.

The MiniLM of the quickstart trains for 96 steps with an overlay, about a minute on a CPU, and `GradientMonitor` looks
at each. With a strategy that learns it trains once more, on bad batches too. What was recorded is kept in
`docs/_build/gradients`; a run is repeated once its file there is removed.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from docs._overlays import CHANGED, SPIKES, learning
from docs._spikes import BAD_BATCHES, draw_spikes
from lightning_sparsegrad.callbacks._history import read_history
from tests.strategies import OVERLAYS, ROOT

PICTURES = ROOT / "docs" / "pictures"
RUNS = ROOT / "docs" / "_build" / "gradients"
EPOCHS, STEPS = 4, 24  # of each epoch
ORDINARY = {"trainer.max_epochs": EPOCHS, "trainer.limit_train_batches": STEPS}
OVERVIEW = {
    "identity": "plain fine-tuning\nevery gradient as it is",
    "grad_drop": "GradDrop\ndrops entries at random, 0.2",
    "layer_grad_drop": "LayerGradDrop\ndrops layers at random, 0.5",
    "gradual_unfreezing": "GradualUnfreezing\nthe top layers join first",
    "sparse_unfreezing": "sparse unfreezing\na falling drop rate, top first",
    "cgnc": "CGNC\nclips every tensor to 0.01",
}
_COLOURS = 128  # of a picture, which keep its file small
_COLOURS_OF_LINES = 32
_DPI = 110
_NOTHING = "#d9d9d9"  # what is frozen, dropped or not computed
_NORMS = 1e-4, 1.0  # of the colours, in every picture; the biases of keys have a gradient of rounding errors alone
_UNITS = ((0.0, "0"), (0.5, "0.5"), (1.0, "1"))


def record(overlay: str, run: Mapping[str, object] = ORDINARY, *, suffix: str = "") -> pd.DataFrame:
    """Train the small model with an overlay unless that was done before, and return what the monitor recorded.

    Args:
        overlay: Name of the overlay.
        run: Arguments of the run, by name.
        suffix: End of the name of the recording.
    """
    file = RUNS / f"{overlay}{suffix}.parquet"
    if not file.exists():
        unfinished = file.with_name(f"unfinished_{file.name}")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        arguments = {
            "trainer.limit_val_batches": 0,
            "trainer.logger": "false",
            "trainer.enable_checkpointing": "false",
            "trainer.callbacks+": "GradientMonitor",
            "trainer.callbacks.every_n_steps": 1,
            "trainer.callbacks.path": unfinished,
        }
        command = ["fit", "--config", "quickstart", "--config", str(OVERLAYS[overlay])]
        command += [f"--{name}={value}" for given in (run, arguments) for name, value in given.items()]
        subprocess.run([sys.executable, "cli.py", *command], cwd=ROOT, check=True)  # noqa: S603  # the arguments above
        unfinished.rename(file)
    return read_history(file)


def draw_overlay(history: pd.DataFrame) -> Figure:
    """Draw norms before and after, and what is left of norms and of entries, for each tensor and step."""
    history = _sorted(history)
    before, after, kept = (_grid(history, column) for column in ("norm_before", "norm_after", "kept"))
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    scale = LogNorm(*_NORMS)
    viridis, cividis = (matplotlib.colormaps[name].with_extremes(bad=_NOTHING) for name in ("viridis", "cividis"))
    _show(panels[0, 0], before, "gradient norm before", viridis, scale)
    norm = _show(panels[0, 1], after, "gradient norm after", viridis, scale)
    _show(panels[1, 0], _left(before, after), "share of the norm left", cividis, Normalize(0, 1))
    share = _show(panels[1, 1], kept.where(after > 0, kept * 0), "share of the entries kept", cividis, Normalize(0, 1))
    figure.colorbar(norm, ax=panels[0], pad=0.02, extend="both")
    figure.colorbar(share, ax=panels[1], pad=0.02, ticks=[at for at, _ in _UNITS]).set_ticklabels(
        [to for _, to in _UNITS]
    )
    layers = history.drop_duplicates("component")["layer"]
    for panel in panels.flat:
        _label_layers(panel, list(layers))
    for panel in panels[1]:
        panel.set_xlabel("optimizer step")
    return figure


def draw_overview(histories: Sequence[pd.DataFrame], titles: Sequence[str]) -> Figure:
    """Draw what is left of the gradient norm of each layer, over training, for several overlays."""
    figure = Figure(figsize=(8, 4.3), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    for panel, history, title in zip(panels.flat, histories, titles, strict=True):
        norms = history.groupby(["layer", "step"], sort=False)[["norm_before", "norm_after"]].agg(_norm)
        before, after = (norms[column].unstack("step") for column in norms)
        image = _show(panel, _left(before, after), title, matplotlib.colormaps["cividis"], Normalize(0, 1))
        panel.title.set_fontsize(9)
        panel.set_yticks(range(len(before)), [str(layer) for layer in before.index], fontsize=8)
    for panel in panels[1]:
        panel.set_xlabel("optimizer step", fontsize=9)
    bar = figure.colorbar(image, ax=panels, pad=0.02, ticks=[at for at, _ in _UNITS])
    bar.set_label("share of the gradient norm that is left", fontsize=9)
    return figure


def save(figure: Figure, file: Path, *, colours: int = _COLOURS) -> None:
    """Write a picture with few colours on a white card, which both light and dark pages can show."""
    figure.savefig(file, dpi=_DPI, facecolor="white")
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


def _sorted(history: pd.DataFrame) -> pd.DataFrame:
    """Put the matrices of each layer in front of its vectors."""
    vectors = history["component"].str.contains(r"bias$|norm", case=False, regex=True)
    layers = history["layer"].map({layer: index for index, layer in enumerate(history["layer"].unique())})
    return history.assign(vector=vectors, depth=layers).sort_values(["depth", "vector"], kind="stable")


def _grid(history: pd.DataFrame, column: str) -> pd.DataFrame:
    grid = history.groupby(["component", "step"], sort=False)[column].first().unstack("step")
    return grid[sorted(grid.columns)]


def _left(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each norm that is left: none where there is no gradient, whether or not it was computed."""
    return (after / before).where(after > 0, 0.0).clip(0, 1)


def _show(panel: Axes, grid: pd.DataFrame, title: str, colours: Colormap, scale: Normalize) -> AxesImage:
    image = panel.imshow(grid.to_numpy(), aspect="auto", cmap=colours, norm=scale, interpolation="none")
    panel.set_title(title, fontsize=10)
    panel.set_xticks([epoch * STEPS for epoch in range(EPOCHS)])
    panel.tick_params(labelsize=8)
    return image


def _label_layers(panel: Axes, layers: list[str]) -> None:
    names = list(dict.fromkeys(layers))
    starts = [layers.index(name) for name in names]
    ends = [*starts[1:], len(layers)]
    for start in starts[1:]:
        panel.axhline(start - 0.5, color="white", linewidth=0.8)
    panel.set_yticks([(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)], names)


def _norm(norms: pd.Series) -> float:
    return float(np.sqrt(norms.pow(2).sum()))


def main(overlays: Sequence[str]) -> None:
    """Draw the pictures of some overlays, and the one picture of several as soon as all of its runs are there."""
    for overlay in overlays:
        save(draw_overlay(record(overlay)), PICTURES / f"{overlay}.png")
        if overlay in learning():
            history = _sorted(record(overlay, {**BAD_BATCHES, **CHANGED.get(overlay, {})}, suffix=SPIKES))
            save(draw_spikes(history), PICTURES / f"{overlay}{SPIKES}.png", colours=_COLOURS_OF_LINES)
    if all((RUNS / f"{overlay}.parquet").exists() for overlay in OVERVIEW):
        save(
            draw_overview([record(overlay) for overlay in OVERVIEW], list(OVERVIEW.values())), PICTURES / "overview.png"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(OVERLAYS))
