"""Refusals of models and gradients that no strategy can work on, and of strategies whose facts would not count."""

from collections.abc import Set as AbstractSet
from typing import get_args

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional.sharding import is_spread, shard_of
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Phase, owner_of, runs_on_shards, stated

# wrappers whose parameters do not show which entries a gradient belongs to, and their replacements
_HIDDEN = {
    "FullyShardedDataParallel": "FSDP2, `torch.distributed.fsdp.fully_shard`, in place of FSDP1",
    "DeepSpeedEngine": "FSDP2, `torch.distributed.fsdp.fully_shard`, in place of DeepSpeed",
}


_OURS = __name__.partition(".")[0]
_PHASES = frozenset(get_args(Phase))
_CALLED_IN: dict[str, Phase] = {
    "calibrates": "calibration",
    "calibrate_": "calibration",
    "before_step_": "update",
    "after_step_": "update",
}


def require_transform(parameter: str, transform: object) -> None:
    """Raise a `ConfigurationError` unless a parameter, as an error names it, is a gradient transform."""
    if not isinstance(transform, GradientTransform):
        raise ConfigurationError(
            f"Parameter {parameter} should be a gradient transform, `Identity()` for none. Found `{transform!r}`."
        )


def refuse_misstated(transform: GradientTransform) -> None:
    """Refuse strategies that define members which would never be called, given what they state and where."""
    for member in transform.flattened():
        kind, phases = type(member), member.phases
        if not isinstance(phases, AbstractSet) or not phases <= _PHASES:
            raise ConfigurationError(
                f"`{member!r}` should act in phases of {', '.join(sorted(map(repr, _PHASES)))}. "
                f"Found `phases = {phases!r}`."
            )
        for method, phase in _CALLED_IN.items():
            if phase not in phases and owner_of(kind, method) is not GradientTransform:
                raise ConfigurationError(
                    f"`{member!r}` should state the phase {phase!r}, in which `{method}` is called. "
                    f"Found `phases = {set(phases)}`."
                )
        for method in ("commit_", "forget_"):
            if not member.learns and owner_of(kind, method) is not GradientTransform:
                raise ConfigurationError(
                    f"`{member!r}` should state `learns = True`, or `{method}` is never called. "
                    f"Found `learns = {member.learns!r}`."
                )
        owner = owner_of(kind, "dropped")
        is_new = owner_of(kind, "skippable") is GradientTransform and owner.__module__.partition(".")[0] != _OURS
        if is_new and "dropped" not in stated(kind):
            raise ConfigurationError(
                f"`{kind.__name__}` should state `dropped` again, since it overrides `apply_`. "
                f"Found it stated by `{owner.__name__}` alone, for another `apply_`."
            )


def refuse_hidden(parameters: NamedParameters, transform: GradientTransform) -> None:
    """Refuse models whose gradients are not at their parameters, or are sharded otherwise than by rows."""
    for module in parameters.model.modules():
        kinds = {cls.__name__ for cls in type(module).__mro__}
        for kind, instead in _HIDDEN.items():
            if kind in kinds:
                raise ConfigurationError(f"Parameter `model` should be sharded by {instead}. Found a `{kind}`.")
    spread = {name: parameter for name, parameter in parameters.tensors.items() if is_spread(parameter)}
    for name, parameter in spread.items():
        _require_rows(name, parameter)
    if spread and not runs_on_shards(transform):
        raise ConfigurationError(
            f"`{transform!r}` should state `on_shards = True` if it handles sharded gradients, whose slices and values "
            f"read on the host are those of one process alone. Found `{min(spread)}` sharded."
        )


def refuse_unusable(gradients: Gradients, parameters: NamedParameters) -> None:
    """Refuse gradients that are sparse, complex, sharded otherwise than by rows, or belong to a new parameter."""
    unusual = [
        (name, gradient)
        for name, gradient in gradients.items()
        if type(gradient) is not Tensor or gradient.layout is not torch.strided or gradient.is_complex()
    ]
    for name, gradient in unusual:
        if is_spread(gradient):
            _require_rows(name, gradient)
        if gradient.layout != torch.strided or gradient.is_complex():
            kind = "complex" if gradient.is_complex() else "sparse"
            raise ConfigurationError(f"Gradients should be dense and real. Found a {kind} gradient of `{name}`.")
    for name, parameter in parameters.newcomers():
        if parameter.grad is not None:
            raise ConfigurationError(
                f"Parameters should be in the model before its engine is created. Found `{name}`, which is new."
            )


def refuse_capture(call: str) -> None:
    """Raise a `ConfigurationError` while a CUDA graph is captured.

    Args:
        call: What is called.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch ships it without types
    if used and torch.cuda.is_current_stream_capturing():
        raise ConfigurationError(
            f"{call} should run outside of CUDA graphs, which repeat the mask, the rates and the thresholds of the "
            f"window that they captured. Found a capture; capture the forward and the backward pass alone."
        )


def _require_rows(name: str, tensor: Tensor) -> None:
    try:
        shard_of(tensor)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} It is `{name}`.") from None
