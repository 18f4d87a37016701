"""The model in a checkpoint, built from its description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import isclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_sparsegrad.components.parameters import plain_name
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.modules._padding import set_padding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX = "model."  # prefix of the pretrained model's weights in a task
_ADAPTER = (".lora_", ".base_layer.", ".modules_to_save.")


def build(described: Mapping[str, Any], state: Mapping[str, Tensor], name: str) -> PreTrainedModel:
    """Return the model with the weights of a checkpoint.

    Args:
        described: The description by `describe_model`.
        state: The weights of the task.
        name: The checkpoint's name.

    Raises:
        ConfigurationError: If the class of the model is unknown, or the weights do not fit the model.
    """
    import transformers
    from transformers import AutoConfig, PreTrainedModel

    weights = {plain_name(key.removeprefix(_PREFIX)): value for key, value in state.items() if key.startswith(_PREFIX)}
    if any(part in key for key in weights for part in _ADAPTER):
        raise ConfigurationError(
            f"Parameter `ckpt_path` should name the checkpoint of a whole model. Found `ckpt_path = {name}`, which "
            f"holds an adapter: write it with `load_from_checkpoint(...).model.save_pretrained(FOLDER)`."
        )
    kind = getattr(transformers, str(described.get("class")), None)
    if not isclass(kind) or not issubclass(kind, PreTrainedModel):
        raise ConfigurationError(
            f"Parameter `ckpt_path` should name a checkpoint of a model of `transformers`. Found `ckpt_path = {name}` "
            f"of `{described.get('class')}`, which is not a model of transformers {transformers.__version__}."
        )
    try:
        with torch.device("meta"):
            model = kind(AutoConfig.for_model(**json.loads(described["config"])))
    except Exception as error:  # transformers may raise anything for a wrong configuration
        raise ConfigurationError(
            f"Parameter `ckpt_path` should name a checkpoint with the configuration of its model. Found "
            f"`ckpt_path = {name}`: {(str(error) or repr(error)).splitlines()[0][:300]}"
        ) from error
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ConfigurationError(
            f"Parameter `ckpt_path` should name a checkpoint of `{described['class']}` with all its weights. "
            f"Found `ckpt_path = {name}`: {' '.join(str(error).split())[:300]}"
        ) from error
    model.tie_weights()
    padding = described.get("padding")
    if padding is not None and type(padding) is not int:
        raise ConfigurationError(
            f"Parameter `ckpt_path` should name a checkpoint with the id of its padding token. "
            f"Found `ckpt_path = {name}`, whose `padding` is of type `{type(padding).__name__}`."
        )
    if padding is not None:
        set_padding(model, padding)
    return model
