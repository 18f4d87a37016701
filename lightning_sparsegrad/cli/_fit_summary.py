"""The table that `fit` of the command line prints when it is done."""

from math import isfinite

from lightning.pytorch import Trainer
from rich import get_console
from rich.table import Table
from rich.text import Text

from lightning_sparsegrad.metrics._evaluation_table import evaluation_table, is_part, place_of
from lightning_sparsegrad.untrusted._terminal import shown

_SHARES = {"kept": "share of entries kept", "clipped": "share of components clipped"}
_VALIDATION = "val/"


def print_fit_summary(trainer: Trainer, *, seconds: float, diverged: bool = False) -> None:
    """Print how a fit went, and below it the results by part where its validation has several.

    Args:
        trainer: The Trainer after the fit.
        seconds: How long the fit took.
        diverged: Whether weights or validation loss are not finite: no checkpoint is called the best then, unless its
            own loss was finite.
    """
    table = Table("")
    table.add_column("at the end of the fit", overflow="fold")  # a path is to be copied
    for name, value in _summary(trainer, diverged=diverged).items():
        table.add_row(Text(shown(name)), Text(shown(value)))
    table.add_row("wall time", f"{seconds:.1f} s")
    console = get_console()
    console.print(table)
    table_of_parts = evaluation_table(trainer.callback_metrics, prefix=_VALIDATION)
    if table_of_parts.has_parts:
        table_of_parts.show(console, heading="val")


def _summary(trainer: Trainer, *, diverged: bool) -> dict[str, str]:
    """Return the last metrics but those of parts, what the last step kept and clipped, and the checkpoint."""
    metrics, shares = {}, {}
    for name, value in trainer.callback_metrics.items():
        _, part = place_of(name, prefix=_VALIDATION) or ("", "")
        if name.startswith("gradient/"):
            transform, _, share = name.removeprefix("gradient/").rpartition("/")
            if share in _SHARES:
                shares[_SHARES[share] + (f", {transform}" if transform else "")] = f"{value:.1%}"
        elif not name.endswith("_step") and not is_part(part):  # the mean over the epoch stands beside it
            metrics[name] = f"{value:.4g}"
    return {**metrics, **shares, **_checkpoint(trainer, diverged=diverged)}


def _checkpoint(trainer: Trainer, *, diverged: bool) -> dict[str, str]:
    callback = trainer.checkpoint_callback
    path: str = getattr(callback, "best_model_path", "")
    if not path:
        return {}
    monitor, score = getattr(callback, "monitor", None), getattr(callback, "best_model_score", None)
    if score is not None and not isfinite(score):  # Lightning puts an infinity in place of what is undefined
        return {f"checkpoint, {monitor} not finite": path}
    if diverged:  # weights that are not finite can have an accuracy, but no loss
        has_loss = score is not None and "loss" in str(monitor).lower()
        return {"best checkpoint, before it diverged" if has_loss else "checkpoint, diverged": path}
    return {"best checkpoint": path}
