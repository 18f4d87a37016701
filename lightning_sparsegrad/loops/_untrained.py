"""Warnings about strategies with which nothing trains, or nothing is unfrozen, during a whole run."""

from collections.abc import Callable

from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.freezes.gradual_unfreezing import GradualUnfreezing

_SAMPLE = 16  # number of windows examined
_ENDLESS = 100_000  # steps that stand for a run without an end


def warn_of_untrained(
    engine: GradientEngine,
    *,
    count: Callable[[], int | None],
    epoch_steps: Callable[[], int],
    warn: Callable[[str], None],
) -> None:
    """Warn if a strategy drops every gradient in every step, or unfreezes nothing from the first to the last.

    Raises a `ConfigurationError` if it calibrates in every step.

    Args:
        engine: The engine, with the strategy bound to the module.
        count: Returns the optimizer steps of the run, `None` without an end; called only if something is dropped or
            calibrates, since counting may set up the data.
        epoch_steps: Returns those of an epoch; of an epoch of unknown length 1, so that what never trains in the
            windows that are examined never trains at all.
        warn: Called with each warning.
    """
    transform = engine.transform
    if any(member.calibrates(Window(step=0)) for member in transform.flattened()) and (steps := count()) is not None:
        engine.require_steps_in(steps)
    if not transform.skippable(Window(step=0, epoch=0, total_steps=1, seed=engine.seed)):
        return
    windows = _windows(count(), epoch_steps(), engine.seed)
    trainable = {name for name, tensor in engine.parameters.tensors.items() if tensor.requires_grad}
    if trainable and all(trainable <= transform.skippable(window) for window in windows):
        warn(f"Nothing trains: `{transform!r}` drops every gradient in every step of this run.")
    for member in transform.flattened():
        if isinstance(member, GradualUnfreezing):
            first, last = (member.dropped_depths(window) for window in (windows[0], windows[-1]))
            if first and first == last:
                warn(
                    f"`{member!r}` unfreezes nothing in this run of {windows[-1].step + 1} steps: "
                    f"{len(first.intersection(member.below))} layers never train."
                )


def _windows(steps: int | None, epoch_steps: int, seed: int) -> list[Window]:
    """Return a sample of the windows of a run, evenly spaced from the first to the last."""
    last = max(1, _ENDLESS if steps is None else steps) - 1
    chosen = sorted({last * index // (_SAMPLE - 1) for index in range(_SAMPLE)})
    return [Window(step, epoch=step // epoch_steps, total_steps=steps, seed=seed) for step in chosen]
