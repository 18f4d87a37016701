"""An optimizer that changes nothing, by whose steps strategies learn without any other work."""

from typing import Any

from torch.optim import Optimizer

from lightning_sparsegrad import GradientEngine


class Still(Optimizer):
    """An optimizer whose step changes nothing; its hooks run.

    Args:
        engine: The engine whose parameters it holds, and which follows it.
    """

    def __init__(self, engine: GradientEngine) -> None:
        super().__init__(engine.parameters.tensors.values(), {})
        engine.attach(self)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it calls none
        """Change nothing."""
