"""What strategies learn from: norms that teach something, and the last of them."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.errors import ConfigurationError

_FLOAT32 = torch.finfo(torch.float32)
MOST_NORMS = 1_000_000  # of a history
LEAST_NORM, _MOST = sqrt(_FLOAT32.smallest_normal), sqrt(_FLOAT32.max)  # 1.1e-19, 1.8e19


def teaches(norms: Tensor) -> Tensor:
    """Return whether something can be learnt from norms: those whose squares float32 can hold.

    Zero, an overflow and NaN are not among them.
    """
    return (norms >= LEAST_NORM) & (norms <= _MOST)


def widened(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device: numbers in float64, or in float32 where there is none, and integers as they are."""
    if not tensor.is_floating_point():
        return tensor.to(device)
    return tensor.to(device, torch.float32 if device.type == "mps" else torch.float64)


# ---------------------------------------------------------------- the last norms, in a ring buffer
def put(history: Tensor, count: Tensor, norms: Tensor) -> Tensor:
    """Return a history in which norms replace the oldest ones.

    Args:
        history: The last norms, of shape (..., size); NaN where there is none yet.
        count: How many norms were put into it so far, of shape (...).
        norms: The norms to put into it, of shape (...).
    """
    return history.scatter(-1, (count % history.shape[-1]).unsqueeze(-1), norms.unsqueeze(-1))


def number_in(history: Tensor) -> Tensor:
    """Return how many norms a history holds, of shape (...): after it has grown, fewer than there is room for."""
    return (~history.isnan()).sum(-1)


def with_history(state: dict[str, Any], size: int) -> dict[str, Any]:
    """Return a restored state whose `history` has this size, with its newest norms."""
    history, count = state.get("history"), state.get("count")
    if not (isinstance(history, Tensor) and isinstance(count, Tensor) and history.shape[:-1] == count.shape):
        return state  # which is refused
    old, count = history.shape[-1], count.unsqueeze(-1)
    kept = count.clamp(max=min(old, size))
    index = torch.arange(size, device=history.device)
    numbers = count - kept + index  # of the newest norms in the order in which they came, and of those to come
    newest = torch.where(index < kept, history.gather(-1, numbers % old), torch.nan)
    return {**state, "history": torch.empty_like(newest).scatter(-1, numbers % size, newest)}


def require_tensor(state: dict[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of a restored state; raise a `ConfigurationError` unless it is there and has a shape.

    Args:
        state: The state.
        name: The name of the tensor.
        shape: Its shape.
    """
    value = state.get(name)
    if isinstance(value, Tensor) and value.shape == shape:
        return value
    raise ConfigurationError(
        f"Parameter `state` should hold a tensor `{name}` of shape {shape}. "
        f"Found {f'shape {tuple(value.shape)}' if isinstance(value, Tensor) else f'`{name} = {value!r}`'}."
    )
