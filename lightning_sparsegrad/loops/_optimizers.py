"""Refusals of optimizers that a transform cannot serve, in any loop."""

from collections.abc import Iterable
from inspect import Parameter, signature

from torch.optim import Optimizer

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import inside_wrapper


def refuse_closures(optimizers: Iterable[Optimizer]) -> None:
    """Raise a `ConfigurationError` for an optimizer, wrapped or not, whose `step` needs a closure, as `LBFGS`."""
    for optimizer in map(inside_wrapper, optimizers):
        closure = signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is Parameter.empty:
            raise ConfigurationError(
                f"Parameter `optimizer` should compute one gradient per step. Found `{type(optimizer).__name__}`, "
                f"whose closure computes several, which it compares: masks and clips would change what it compares."
            )
