"""Checks of the numbers given to optimizers and schedulers, which torch accepts unchecked."""

from collections.abc import Iterator, Mapping
from inspect import signature
from math import isfinite
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_sparsegrad.errors import ConfigurationError

_MOST = torch.finfo(torch.float32).max


def check_optimizer(optimizer: Optimizer, *, is_scheduled: bool) -> None:
    """Check the numbers of an optimizer.

    Raises:
        ConfigurationError: If a number is not finite in float32: the first step would make all weights non-finite.
    """
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        _require_finite(name, {key: value for key, value in group.items() if key != "params"})
    if not is_scheduled and all(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups):
        rank_zero_warn(f"`{name}` changes no weight: `lr = 0`.")


def check_scheduler(scheduler: LRScheduler) -> None:
    """Check the numbers given to a scheduler.

    Raises:
        ConfigurationError: If a number is negative or not finite in float32, since learning rates would be, too.
    """
    given = vars(scheduler)
    numbers = {name: given[name] for name in signature(type(scheduler)).parameters if name in given}
    _require_finite(type(scheduler).__name__, numbers)
    for name, value in numbers.items():
        if isinstance(value, float) and value < 0:
            raise ConfigurationError(
                f"Parameter `{name}` of `{type(scheduler).__name__}` should not be negative. Found `{name} = {value}`."
            )


def _require_finite(owner: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        for number in _floats(value):
            if not isfinite(number) or abs(number) > _MOST:
                raise ConfigurationError(
                    f"Parameter `{name}` of `{owner}` should be finite in float32, at most {_MOST:.3g}. "
                    f"Found `{name} = {value}`."
                )


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _floats(entry)
