"""Warnings about strategies with which nothing trains, or nothing is unfrozen, during a whole run."""

from collections.abc import Callable
from math import ceil

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.freezes.gradual_unfreezing import GradualUnfreezing

_SAMPLE = 16  # number of windows examined
_ENDLESS = 100_000  # steps that stand for a run without an end


def warn_of_untrained(trainer: Trainer, engine: GradientEngine, *, count: Callable[[], int | None]) -> None:
    """Warn if a strategy drops every gradient in every step, or unfreezes nothing from the first to the last.

    Raises a `ConfigurationError` if it calibrates in every step.

    Args:
        trainer: The Trainer, at the start of a fit.
        engine: The engine, with the strategy bound to the module.
        count: Returns the optimizer steps of the fit, `None` without an end; called only if something is dropped or
            calibrates, since counting sets up the data.
    """
    transform = engine.transform
    if any(member.calibrates(Window(step=0)) for member in transform.flattened()) and (steps := count()) is not None:
        engine.require_steps_in(steps)
    if not transform.skippable(Window(step=0, epoch=0, total_steps=1, seed=engine.seed)):
        return
    windows = _windows(trainer, count(), engine.seed)
    trainable = {name for name, tensor in engine.parameters.tensors.items() if tensor.requires_grad}
    if trainable and all(trainable <= transform.skippable(window) for window in windows):
        rank_zero_warn(f"Nothing trains: `{transform!r}` drops every gradient in every step of this run.")
    for member in transform.flattened():
        if isinstance(member, GradualUnfreezing):
            first, last = (member.dropped_depths(window) for window in (windows[0], windows[-1]))
            if first and first == last:
                rank_zero_warn(
                    f"`{member!r}` unfreezes nothing in this run of {windows[-1].step + 1} steps: "
                    f"{len(first.intersection(member.below))} layers never train."
                )


def _windows(trainer: Trainer, steps: int | None, seed: int) -> list[Window]:
    """Return a sample of the windows of a fit, evenly spaced from the first to the last."""
    last = max(1, _ENDLESS if steps is None else steps) - 1
    batches = trainer.num_training_batches
    # for an epoch of unknown length, the shortest: a tensor that never trains then never trains at all
    epoch_steps = ceil(batches / trainer.accumulate_grad_batches) if 0 < batches < float("inf") else 1
    chosen = sorted({last * index // (_SAMPLE - 1) for index in range(_SAMPLE)})
    return [Window(step, epoch=step // epoch_steps, total_steps=steps, seed=seed) for step in chosen]
