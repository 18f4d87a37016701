"""The export of a checkpoint: as a folder that `transformers` reads, or as the delta to its base model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightning_sparsegrad.data._tokenizer_padding import settle_tokenizer
from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.export._base import load_base
from lightning_sparsegrad.export._bits import tensors_of
from lightning_sparsegrad.export._delta_writer import DeltaSize, write_delta
from lightning_sparsegrad.export._folder import require_free, written
from lightning_sparsegrad.export._model import build
from lightning_sparsegrad.export._release_0_1 import describe
from lightning_sparsegrad.files._checksums import require_intact
from lightning_sparsegrad.files._new import require_new
from lightning_sparsegrad.hub._names import resolve_source
from lightning_sparsegrad.hub._network import STRANGERS, how_without, is_unreachable
from lightning_sparsegrad.modules._description import MODEL_KEY, name_classes
from lightning_sparsegrad.modules._limits import longest_row
from lightning_sparsegrad.modules._padding import padding_of, settle_padding
from lightning_sparsegrad.resume._checkpoints import about_checkpoint, names_in, require_mappings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def export_checkpoint(
    ckpt_path: str, output: str, *, tokenizer: str | None = None, model_name_or_path: str | None = None
) -> PreTrainedModel:
    """Write the model, the tokenizer and the names of the classes of a checkpoint into a folder for `transformers`.

    `transformers.pipeline` and `from_pretrained` read the folder. The weights keep their dtype in the checkpoint. The
    tokenizer's `model_max_length` is the `max_length` of the data, or the number of positions of the model if that is
    smaller, so that `truncation=True` truncates rows like the run. The tokenizer is needed at the path or id that the
    run used; the data and the base model are not needed.

    Args:
        ckpt_path: The checkpoint of a task of this library.
        output: The folder to write, new or empty.
        tokenizer: The tokenizer, if it has moved since the run: hub id, local folder or `package:`.
        model_name_or_path: The base model, if it has moved since the run. Only checkpoints of release 0.1 need it, as
            they lack configuration and tokenizer.

    Returns:
        The exported model.

    Raises:
        ConfigurationError: If the checkpoint does not exist or is not of one of the tasks, its tokenizer cannot be
            loaded, or the folder is not empty.
    """
    folder = require_free(output)
    checkpoint = _load(ckpt_path)
    arguments = checkpoint.get("hyper_parameters") or {}
    described = checkpoint.get(MODEL_KEY) or describe(checkpoint, ckpt_path, model_name_or_path)
    model = build(described, checkpoint["state_dict"], ckpt_path)
    names = names_in(checkpoint)
    name_classes(model.config, names)
    if not names and model.config.problem_type == "single_label_classification":
        warnings.warn(f"`{ckpt_path}` has no names of classes: the folder names them LABEL_0 and so on.", stacklevel=2)
    name = tokenizer or described.get("tokenizer") or arguments["model_name_or_path"]
    tokens = _find_tokenizer(name, described.get("tokenizer_options", {}))
    if padding_of(model) is None:
        settle_padding(model, tokens)
    _agree(tokens, model, name, described.get("max_length"))
    with written(folder) as made:
        model.save_pretrained(made)
        tokens.save_pretrained(made)
    return model


@dataclass(frozen=True)
class ExportedDelta:
    """A delta that was written.

    Args:
        model: The trained model.
        base: Hub id or local folder of its base model.
        size: Size of the delta and of the model.
    """

    model: PreTrainedModel
    base: str
    size: DeltaSize


def export_delta(ckpt_path: str, delta: str, *, model_name_or_path: str | None = None) -> ExportedDelta:
    """Write into a new file what a run has changed in its base model, see `save_delta`; `load_delta` reads it.

    The base model is loaded from where the run loaded it, in the dtype that the checkpoint has. What it lacks, such as
    a new head, is stored whole.

    Args:
        ckpt_path: The checkpoint of a task of this library.
        delta: The file to write, `.safetensors` by custom.
        model_name_or_path: The base model, if it has moved since the run: hub id, local folder or `package:`.

    Raises:
        ConfigurationError: If the file exists, the checkpoint does not exist or is not of one of the tasks, or its base
            model cannot be loaded.
        OSError: If the file cannot be written.
    """
    require_new(delta, "delta")
    checkpoint = _load(ckpt_path, mmap=True)  # the optimizer's state stays on the disk
    name = model_name_or_path or (checkpoint.get("hyper_parameters") or {}).get("model_name_or_path")
    if not isinstance(name, str):
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should name the base model of a checkpoint that does not. "
            f"Found `model_name_or_path = {name}` and `ckpt_path = {ckpt_path}`."
        )
    described = checkpoint.get(MODEL_KEY) or describe(checkpoint, ckpt_path, model_name_or_path)
    model = build(described, checkpoint["state_dict"], ckpt_path)
    base, fresh = load_base(model, name)
    tensors = tensors_of(model, "ckpt_path"), tensors_of(base, "model_name_or_path")
    return ExportedDelta(model, resolve_source(name), write_delta(*tensors, delta, "delta", fresh))


def _load(ckpt_path: str, *, mmap: bool = False) -> dict[str, Any]:
    path = Path(ckpt_path)
    if not path.is_file():
        problem = "which is a folder: a sharded checkpoint" if path.is_dir() else "which does not exist"
        raise ConfigurationError(
            f"Parameter `ckpt_path` should name the file of a checkpoint. Found `ckpt_path = {ckpt_path}`, {problem}."
        )
    require_intact(path)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        require_mappings(checkpoint, path)
        checkpoint["state_dict"].items()
    except ConfigurationError:
        raise
    except Exception as error:  # torch raises many classes for a broken file
        raise ConfigurationError(about_checkpoint(path, error)) from error
    return checkpoint


def _find_tokenizer(name: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    source = resolve_source(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, local_files_only=is_unreachable(source, "model"), **{**options, **STRANGERS}
        )
    except Exception as error:  # broken files may raise anything
        raise ConfigurationError(
            f"Parameter `tokenizer` should name the folder or the hub id of the tokenizer that the checkpoint was "
            f"trained with. Found `tokenizer = {name}`: {reason_of(error)}{how_without(source, 'model')}"
        ) from error
    return tokenizer


def _agree(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str, max_length: int | None) -> None:
    """Set a tokenizer to pad and truncate like the run."""
    settle_tokenizer(tokenizer, name, model.config)
    padding = padding_of(model)
    if padding is not None and tokenizer.pad_token_id != padding and padding < len(tokenizer):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    if max_length is not None:
        tokenizer.model_max_length = longest_row(model, max_length) or max_length
