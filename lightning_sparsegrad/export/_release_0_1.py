"""Descriptions of the models in checkpoints of release 0.1, which do not store them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_sparsegrad.data.encodings import TokenEncoding
from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.hub._names import resolve_source
from lightning_sparsegrad.hub._network import STRANGERS, how_without, is_unreachable
from lightning_sparsegrad.modules import (
    ExtractiveQuestionAnswering,
    SequenceClassification,
    TokenClassification,
    TransformerTask,
)
from lightning_sparsegrad.modules._description import describe as describe_model
from lightning_sparsegrad.modules.sequence_classification import head_of
from lightning_sparsegrad.resume._checkpoints import stored_run
from lightning_sparsegrad.untrusted._imports import named_by_checkpoint
from lightning_sparsegrad.untrusted._jsonargparse import find


def describe(checkpoint: Mapping[str, Any], path: str, base: str | None) -> dict[str, Any]:
    """Return the description of model and tokenizer that newer checkpoints store, derived from the base model.

    Args:
        checkpoint: The checkpoint.
        path: The path of the checkpoint.
        base: The base model, if it has moved since the run: hub id, local folder or `package:`.

    Raises:
        ConfigurationError: If it is not of a task of this library, or the base model does not exist.
    """
    from transformers import AutoConfig

    config = stored_run(Path(path)).config
    model, data = ((config.get(key) or {}) for key in ("model", "data"))
    arguments = {**model.get("init_args", {}), **checkpoint.get("hyper_parameters", {})}
    name = base or arguments.get("model_name_or_path")
    if name is None:
        raise ConfigurationError(
            f"Parameter `ckpt_path` should name a checkpoint of a task of this library. Found `ckpt_path = {path}`, "
            f"which does not name the pretrained model that it was trained from."
        )
    with named_by_checkpoint(Path(path)):
        kind = find(model.get("class_path"))
    task = kind if isinstance(kind, type) and issubclass(kind, TransformerTask) else _task_of(arguments)
    source = resolve_source(name)
    try:
        base_config = AutoConfig.from_pretrained(
            source, local_files_only=is_unreachable(source, "model"), **_head_of(arguments), **STRANGERS
        )
    except Exception as error:  # broken files may raise anything
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should name the base model of a checkpoint of release 0.1, which holds no "
            f"configuration. Found `model_name_or_path = {name}`: {reason_of(error)}"
            f"{how_without(source, 'model')}"
        ) from error
    with torch.device("meta"):
        base_model = task.auto_model.from_config(base_config, **STRANGERS)
    tokens = data.get("init_args", {})
    return {
        **describe_model(base_model, {}),
        "tokenizer": tokens.get("tokenizer") or name,
        "tokenizer_options": dict(TokenEncoding.tokenizer_options if issubclass(task, TokenClassification) else {}),
        "max_length": tokens.get("max_length"),
    }


def _task_of(arguments: Mapping[str, Any]) -> type[TransformerTask]:
    """Return the task whose arguments a checkpoint stores; a ranking task counts as a classification, with its head."""
    if "label_names" in arguments:
        return TokenClassification
    return SequenceClassification if "num_labels" in arguments else ExtractiveQuestionAnswering


def _head_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if "label_names" in arguments:
        return {"num_labels": len(arguments["label_names"])}
    return head_of(arguments["num_labels"]) if "num_labels" in arguments else {}
