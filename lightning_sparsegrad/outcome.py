"""What `fit` of the command line prints when it is done."""

from lightning.pytorch import Trainer
from rich import get_console
from rich.table import Table
from rich.text import Text

from lightning_sparsegrad.results import is_part, place_of, results_of

_SHARES = {"kept": "share of entries kept", "clipped": "share of components clipped"}
_VALIDATION = "val/"


def print_outcome(trainer: Trainer, *, seconds: float) -> None:
    """Print how a fit went, and below it the results by part where its validation has several.

    Args:
        trainer: The Trainer after the fit.
        seconds: How long the fit took.
    """
    table = Table("")
    table.add_column("at the end of the fit", overflow="fold")  # a path is to be copied
    for name, value in _outcome(trainer).items():
        table.add_row(Text(name), Text(value))
    table.add_row("wall time", f"{seconds:.1f} s")
    console = get_console()
    console.print(table)
    results = results_of(trainer.callback_metrics, prefix=_VALIDATION)
    if results.has_parts:
        results.show(console, heading="val")


def _outcome(trainer: Trainer) -> dict[str, str]:
    """Return the last metrics but those of parts, what the last step kept and clipped, and the best checkpoint."""
    metrics, shares = {}, {}
    for name, value in trainer.callback_metrics.items():
        _, part = place_of(name, prefix=_VALIDATION) or ("", "")
        if name.startswith("gradient/"):
            transform, _, share = name.removeprefix("gradient/").rpartition("/")
            if share in _SHARES:
                shares[_SHARES[share] + (f", {transform}" if transform else "")] = f"{value:.1%}"
        elif not name.endswith("_step") and not is_part(part):  # the mean over the epoch stands beside it
            metrics[name] = f"{value:.4g}"
    best: str = getattr(trainer.checkpoint_callback, "best_model_path", "")
    return {**metrics, **shares, **({"best checkpoint": best} if best else {})}
