"""The description of a model and its tokenizer in a checkpoint, with which the checkpoint can be exported alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.components.parameters import plain_class
from lightning_sparsegrad.functional._torch import uncompiled
from lightning_sparsegrad.modules._padding import padding_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MODEL_KEY = "lightning_sparsegrad_model"  # in checkpoints
_TOKENS = ("tokenizer", "tokenizer_options", "max_length")


def describe(model: PreTrainedModel, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class and configuration of a model and the settings of its tokenizer, as plain values.

    The folder of a tokenizer is absolute: a later command may run in another folder.
    """
    whole = uncompiled(model)
    description = {
        "class": plain_class(whole).__name__,
        "config": model.config.to_json_string(),
        "padding": padding_of(model),
    }
    folder = Path(tokens.get("tokenizer", ""))
    return {**description, **tokens, **({"tokenizer": str(folder.resolve())} if tokens and folder.is_dir() else {})}


def describe_tokens(data: Any, model_name: str) -> dict[str, Any]:
    """Return the settings with which a data module tokenizes texts."""
    options = getattr(getattr(data, "encoding", None), "tokenizer_options", {})
    name = getattr(data, "tokenizer_name", data.tokenizer.name_or_path)
    return dict(zip(_TOKENS, (name or model_name, dict(options), getattr(data, "max_length", None)), strict=True))


def tokens_in(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the tokenizer from the description in a checkpoint."""
    return {name: described[name] for name in _TOKENS if name in described}


def name_classes(config: PreTrainedConfig, names: Sequence[str] | None) -> None:
    """Set the names of the classes in a model's configuration, if they are known and match its number of outputs."""
    if names and len(names) == config.num_labels:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
