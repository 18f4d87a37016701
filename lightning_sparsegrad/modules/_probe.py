"""Forward passes up to the first block of a transformer, which check embeddings and positions cheaply."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_sparsegrad.components import find_blocks
from lightning_sparsegrad.functional._torch import uncompiled


class _Reached(Exception):  # noqa: N818  # not an error: it ends a forward pass
    pass


def embed(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Run a model up to its first block, in evaluation mode; as a whole if its blocks cannot be found.

    Args:
        model: The model, on the CPU: on an accelerator an index out of range kills the process.
        inputs: The model's inputs.
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
    """Run a model in evaluation mode, without changing the model or the random state.

    Args:
        model: The model, on the CPU.
        inputs: The model's inputs.
    """
    model = uncompiled(model)  # a check should not start the compiler
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(**inputs)
    finally:
        for module, training in modes.items():
            module.training = training


def _stop(*_: Any) -> None:
    raise _Reached
