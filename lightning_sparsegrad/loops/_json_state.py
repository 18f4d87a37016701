"""States as JSON: tensors become compressed text, for checkpoints that hold no tensors."""

import base64
import zlib
from collections.abc import Mapping
from io import BytesIO
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.errors import ConfigurationError

_TENSOR, _NUMBER = "tensor", "number"
_KEYS = {_TENSOR}, {_NUMBER}


def to_json(state: object) -> Any:
    """Return a state of numbers, texts, lists, mappings by text and tensors as what JSON can hold."""
    if isinstance(state, Tensor):
        buffer = BytesIO()
        torch.save(state.detach().cpu().contiguous().clone(), buffer)
        return {_TENSOR: base64.b64encode(zlib.compress(buffer.getvalue(), level=1)).decode("ascii")}
    if isinstance(state, Mapping):
        return {str(key): to_json(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [to_json(value) for value in state]
    if isinstance(state, float) and not isfinite(state):
        return {_NUMBER: str(state)}  # other readers of JSON know no infinity
    return state


def from_json(state: Any) -> Any:
    """Return the state that `to_json` was given, with tensors on the CPU; nothing in it runs.

    Raises:
        ConfigurationError: If a tensor cannot be read.
    """
    if isinstance(state, list):
        return [from_json(value) for value in state]
    if not isinstance(state, dict):
        return state
    if state.keys() not in _KEYS:
        return {key: from_json(value) for key, value in state.items()}
    try:
        if _NUMBER in state:
            return float(state[_NUMBER])
        content = zlib.decompress(base64.b64decode(state[_TENSOR], validate=True))
        return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of base64, zlib, pickle or torch, which each have their own
        raise ConfigurationError(
            f"The state of a gradient transform should hold tensors as they were saved. Found {error!r}."
        ) from error
