"""What a transformer makes of a batch below its blocks: embeddings and positions, at the cost of a look-up."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparsegrad.components import find_blocks


class _Reached(Exception):  # noqa: N818  # no error: it ends a forward pass
    def __init__(self, hidden: Tensor | None) -> None:
        self.hidden = hidden


def embed(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
    """Run a model up to its first block, in evaluation mode, and return what that is given.

    The random state stays as it was. A model without blocks that can be found runs as a whole.

    Args:
        model: The model, on the CPU: elsewhere an index out of range ends the process.
        inputs: What the model takes.

    Returns:
        The hidden states, usually of shape (batch, tokens, width); `None` where no block was given any.
    """
    modes = {module: module.training for module in model.modules()}
    hooks = [block.register_forward_pre_hook(_stop, with_kwargs=True) for block in find_blocks(model)]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(**inputs)
    except _Reached as reached:
        return reached.hidden
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return None


def _stop(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
    given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point())
    raise _Reached(next((value for value in given if value.ndim == 3), None))
