"""The description of a pretrained model and its tokenizer in a checkpoint, which so can be exported alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from lightning_sparsegrad.components.parameters import plain_class
from lightning_sparsegrad.functional._torch import uncompiled
from lightning_sparsegrad.modules._padding import padding_of

MODEL_KEY = "lightning_sparsegrad_model"  # in checkpoints
_TOKENS = ("tokenizer", "tokenizer_options", "max_length")


def describe(model: PreTrainedModel, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class and the configuration of a model, and how tokens are made, as plain values.

    The folder of a tokenizer is named from the root: a command may be given elsewhere.
    """
    whole = uncompiled(model)  # of one that is compiled
    found = {
        "class": plain_class(whole).__name__,
        "config": model.config.to_json_string(),
        "padding": padding_of(model),
    }
    folder = Path(tokens.get("tokenizer", ""))
    return {**found, **tokens, **({"tokenizer": str(folder.resolve())} if tokens and folder.is_dir() else {})}


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
