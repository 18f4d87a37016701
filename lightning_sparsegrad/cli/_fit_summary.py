"""The fit of the command line, and the table that it prints at the end."""

import warnings
from math import isfinite, isnan
from time import monotonic
from typing import Any

from lightning.pytorch import Trainer
from rich import get_console
from rich.table import Table
from rich.text import Text

from lightning_sparsegrad.loops._divergence import DivergenceWarning, divergence_of
from lightning_sparsegrad.loops._trainable import percent
from lightning_sparsegrad.metrics._evaluation_table import evaluation_table, is_part, metric_and_part
from lightning_sparsegrad.untrusted._terminal import shown

_SHARES = {"kept": "share of entries kept", "clipped": "share of components clipped"}
_COUNTS = {"spikes": "windows left out"}
_VALIDATION = "val/"


def fit_and_summarize(trainer: Trainer, **kwargs: Any) -> None:
    """Fit, and print a summary.

    Args:
        trainer: The Trainer.
        **kwargs: The arguments of its `fit`.

    Raises:
        FloatingPointError: If weights or validation loss are not finite at the end.
    """
    start = monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # raised below as an error
        trainer.fit(**kwargs)
    fault = divergence_of(trainer)
    if trainer.is_global_zero:
        _print_summary(trainer, seconds=monotonic() - start, diverged=fault is not None)
    if fault is not None:
        raise FloatingPointError(fault)


def _print_summary(trainer: Trainer, *, seconds: float, diverged: bool) -> None:
    """Print the summary of a fit, and below it the results by part if its validation has several."""
    table = Table("")
    table.add_column("at the end of the fit", overflow="fold")  # a path must be whole to be copied
    for name, value in _summary(trainer, diverged=diverged).items():
        table.add_row(Text(shown(name)), Text(shown(value)))
    table.add_row("wall time", f"{seconds:.1f} s")
    console = get_console()
    console.print(table)
    table_by_part = evaluation_table(trainer.callback_metrics, prefix=_VALIDATION)
    if table_by_part.has_parts:
        table_by_part.show(console, heading="val")


def _summary(trainer: Trainer, *, diverged: bool) -> dict[str, str]:
    """Return the last metrics (without those of parts), what the last step kept and clipped, and the checkpoint."""
    metrics, shares = {}, {}
    for name, value in trainer.callback_metrics.items():
        _, part = metric_and_part(name, prefix=_VALIDATION) or ("", "")
        if name.startswith("gradient/"):
            transform, _, share = name.removeprefix("gradient/").rpartition("/")
            behind = f", {transform}" if transform else ""
            if share in _SHARES:
                shares[_SHARES[share] + behind] = percent(float(value))
            elif share in _COUNTS:
                shares[_COUNTS[share] + behind] = f"{value:.0f}"
        elif name.startswith("monitor/") and isnan(value):
            continue  # there was nothing to measure
        elif not name.endswith("_step") and not is_part(part):  # the mean over the epoch is logged as well
            metrics[name] = f"{value:.4g}"
    return {**metrics, **shares, **_checkpoint(trainer, diverged=diverged)}


def _checkpoint(trainer: Trainer, *, diverged: bool) -> dict[str, str]:
    callback = trainer.checkpoint_callback
    path: str = getattr(callback, "best_model_path", "")
    if not path:
        return {}
    monitor, score = getattr(callback, "monitor", None), getattr(callback, "best_model_score", None)
    if score is not None and not isfinite(score):  # Lightning stores an infinity for NaN
        return {f"checkpoint, {monitor} not finite": path}
    if diverged:  # non-finite weights can have a finite accuracy, but no finite loss
        has_loss = score is not None and "loss" in str(monitor).lower()
        return {"best checkpoint, before it diverged" if has_loss else "checkpoint, diverged": path}
    return {"best checkpoint": path}
