"""Pretrained models, loaded for training with float32 weights unless another dtype is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.hub._network import STRANGERS, is_unreachable
from lightning_sparsegrad.hub._peft_adapters import find_adapter
from lightning_sparsegrad.modules._padding import padding_options
from lightning_sparsegrad.modules._peft_models import load_adapted
from lightning_sparsegrad.modules._pretrained_config import stored_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WITHOUT = ContextVar("whether models are made without weights", default=False)
DType = Literal["float32", "bfloat16", "float16", "auto"]


def check_dtype(dtype: DType) -> None:
    """Raise a `ConfigurationError` unless `dtype` is one of those allowed."""
    require_one_of("dtype", dtype, get_args(DType))


def load_pretrained(auto_model: Any, source: str, config: Mapping[str, Any], dtype: DType) -> PreTrainedModel:
    """Load a model with its head, or an adapter with its base model.

    Args:
        auto_model: The class of `transformers` that loads it.
        source: Hub id or local folder.
        config: Values to set in the model's configuration.
        dtype: The dtype of the weights, whatever they are stored in; `"auto"` keeps the stored one.

    Raises:
        ConfigurationError: If an adapter cannot be loaded, or the configuration does not define a model.
    """
    offline = is_unreachable(source, "model")
    options: dict[str, Any] = {"dtype": dtype, **config}
    if (adapter := find_adapter(source, offline=offline)) is not None:
        if _WITHOUT.get():
            raise ConfigurationError(
                f"Parameter `model_name_or_path` should name a whole model where no weights are loaded. "
                f"Found `{source}`, which is an adapter: `--windows=1` loads it."
            )
        return load_adapted(auto_model, source, adapter, options)
    if offline:  # transformers would search the hub for an adapter
        options["adapter_kwargs"] = {"local_files_only": True}
    options |= padding_options(stored_config(source, offline=offline))
    if _WITHOUT.get():
        return _outline(auto_model, source, {**options, "local_files_only": offline})
    model: PreTrainedModel = auto_model.from_pretrained(source, local_files_only=offline, **{**options, **STRANGERS})
    return model


@contextmanager
def without_weights() -> Iterator[None]:
    """Build models from their configurations on the meta device, with shapes and dtypes but without weights."""
    token = _WITHOUT.set(True)
    try:
        yield
    finally:
        _WITHOUT.reset(token)


def _outline(auto_model: Any, source: str, options: dict[str, Any]) -> PreTrainedModel:
    from transformers import AutoConfig

    dtype = options.pop("dtype")
    options.pop("adapter_kwargs", None)
    config = AutoConfig.from_pretrained(source, **{**options, **STRANGERS})
    dtype = config.dtype or torch.float32 if dtype == "auto" else getattr(torch, dtype)
    with torch.device("meta"):
        model: PreTrainedModel = auto_model.from_config(config, dtype=dtype, **STRANGERS)
    return model


def dtypes_of(state: Mapping[str, Any]) -> dict[str, torch.dtype]:
    """Return the dtypes of the floating-point tensors of a state dict."""
    return {name: v.dtype for name, v in state.items() if isinstance(v, Tensor) and v.is_floating_point()}


def warn_of_dtypes(module: nn.Module, stored: Mapping[str, torch.dtype]) -> None:
    """Warn if weights train in another dtype than a checkpoint stored them in."""
    pairs = {
        (_plain(stored[name]), _plain(parameter.dtype))
        for name, parameter in module.named_parameters()
        if stored.get(name, parameter.dtype) != parameter.dtype
    }
    for before, now in sorted(pairs):
        rank_zero_warn(
            f"Weights that the checkpoint stores in {before} now train in {now}. To train them as before, set "
            f"`dtype={before!r}` of the model, or the `precision` of the Trainer that wrote the checkpoint."
        )


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
