"""What a checkpoint says of the pretrained model in it and of its tokenizer, so that it can be exported alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from lightning_sparsegrad.components.parameters import plain_class
from lightning_sparsegrad.modules.padding import padding_of

MODEL_KEY = "lightning_sparsegrad_model"  # in checkpoints
_TOKENS = ("tokenizer", "tokenizer_options", "max_length")


def describe_model(model: PreTrainedModel) -> dict[str, Any]:
    """Return the class and the configuration of a model as plain values."""
    config = model.config.to_json_string()
    return {"class": plain_class(model).__name__, "config": config, "padding": padding_of(model)}


def describe_tokens(data: Any, model_name: str) -> dict[str, Any]:
    """Return how a data module makes tokens of texts."""
    options = getattr(getattr(data, "encoding", None), "tokenizer_options", {})
    name = getattr(data, "tokenizer_name", data.tokenizer.name_or_path)
    return dict(zip(_TOKENS, (name or model_name, dict(options), getattr(data, "max_length", None)), strict=True))


def tokens_in(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return how tokens were made, of what a checkpoint says."""
    return {name: described[name] for name in _TOKENS if name in described}


def name_classes(config: PreTrainedConfig, names: Sequence[str] | None) -> None:
    """Set the names of the classes in the configuration of a model, if they are known and as many as its outputs."""
    if names and len(names) == config.num_labels:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: place for place, name in enumerate(names)}
