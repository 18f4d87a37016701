"""The clips of other packages, if they are installed."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import nn

Change = Callable[[list[nn.Parameter]], None]


def find_peers() -> dict[str, Change | None]:
    """Return the function with which each peer changes gradients in place; `None` if it is not installed."""
    return {"timm adaptive_clip_grad": _timm(), "pytorch_optimizer agc": _agc()}


def _timm() -> Change | None:
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return None
    # load only this file: its package needs a matching torchvision, adaptive clipping does not
    path = Path(next(iter(spec.submodule_search_locations))) / "utils" / "agc.py"
    own = spec_from_file_location("timm_agc", path)
    if own is None or own.loader is None:
        return None
    module: Any = module_from_spec(own)
    own.loader.exec_module(module)

    def clip_(parameters: list[nn.Parameter]) -> None:
        module.adaptive_clip_grad(parameters)

    return clip_


def _agc() -> Change | None:
    if find_spec("pytorch_optimizer") is None:
        return None
    agc = import_module("pytorch_optimizer.optimizer.agc").agc

    @torch.no_grad()
    def clip_(parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(agc(parameter, parameter.grad))

    return clip_
