"""Forward passes up to the first block of a transformer, through embeddings and positions, at the cost of a look-up."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_sparsegrad.components import find_blocks
from lightning_sparsegrad.functional._torch import uncompiled


class _Reached(Exception):  # noqa: N818  # no error: it ends a forward pass
    pass


def embed(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Run a model up to its first block, in evaluation mode; as a whole if its blocks cannot be found.

    Args:
        model: The model, on the CPU: elsewhere an index out of range ends the process.
        inputs: What the model takes.
    """
    hooks = [block.register_forward_pre_hook(_stop) for block in find_blocks(model)]
    try:
        run(model, inputs)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def run(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Run a model in evaluation mode, and leave it and the random state as they were.

    Args:
        model: The model, on the CPU.
        inputs: What the model takes.
    """
    model = uncompiled(model)  # of one that is compiled: looking should not compile it
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(**inputs)
    finally:
        for module, training in modes.items():
            module.training = training


def _stop(*_: Any) -> None:
    raise _Reached
