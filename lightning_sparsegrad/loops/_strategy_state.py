"""The state of an engine in a checkpoint, with the strategy that it belongs to."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.transforms.base import GradientTransform

KEY = "lightning_sparsegrad"
"""The key of the state in the checkpoints of other libraries."""


def packed(engine: GradientEngine, transform: GradientTransform) -> dict[str, Any]:
    """Return the state of an engine and the text of its strategy, as plain numbers, names and tensors."""
    return {**engine.state_dict(), "strategy": repr(transform)}


def restore(
    engine: GradientEngine, transform: GradientTransform, state: Mapping[str, Any], *, warn: Callable[[str], None]
) -> None:
    """Restore what `packed` returned; without the state of the strategy if its class has changed.

    A new strategy starts at the resumed step, since masks and schedules are functions of the step.

    Args:
        engine: The engine of the resumed run.
        transform: Its strategy, as given.
        state: The state.
        warn: Called with a warning if the strategy has changed.
    """
    before, now = str(state.get("strategy", "")), repr(transform)
    if before not in {"", now}:
        warn(f"The strategy changes from `{before}` to `{now}`, which starts at the resumed step.")
        if before.partition("(")[0] != now.partition("(")[0]:
            state = {key: value for key, value in state.items() if key != "transform"}
    engine.load_state_dict(state)
