"""A common padding token of model and tokenizer, with which logits do not depend on the padding of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_sparsegrad.hub._network import STRANGERS, is_unreachable
from lightning_sparsegrad.hub._peft_adapters import tokenizer_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def vocabulary_of(model: PreTrainedModel) -> int | None:
    """Return the number of token ids that a model embeds; `None` without a table of embeddings, as in CANINE."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return len(weight) if isinstance(weight, Tensor) else None


def padding_of(model: PreTrainedModel) -> int | None:
    """Return the padding id of a model; `None` if its configuration has none, or one out of range."""
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    return padding if _is_id(padding, vocabulary_of(model)) else None


def set_padding(model: PreTrainedModel, padding: int | None) -> None:
    """Set the padding id of a model; a model of images and texts has it in its text configuration."""
    text = model.config.get_text_config()
    text.pad_token_id = padding
    if text is not model.config and hasattr(model.config, "pad_token_id"):
        model.config.pad_token_id = padding


def settle_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Set the padding id of a model to that of its tokenizer, if the model embeds it.

    The head of a decoder reads the last token that is not padding. If neither model nor tokenizer has a padding token,
    an end token is used. A model that counts positions from its padding token, like RoBERTa, keeps its own, with which
    it was trained.
    """
    own, size = padding_of(model), vocabulary_of(model)
    if own is not None and _counts_from_padding(model):
        return
    ends = getattr(model.config.get_text_config(), "eos_token_id", None)
    of_tokenizer = () if tokenizer is None else (tokenizer.pad_token_id, own, tokenizer.eos_token_id)
    candidates = (*of_tokenizer, own, *(ends if isinstance(ends, list | tuple) else [ends]))  # Llama 3 has several
    set_padding(model, next((each for each in candidates if _is_id(each, size)), None))


def padding_options(config: Any) -> dict[str, Any]:
    """Return the options to load a model whose configuration has a padding id that the model does not embed.

    `torch.nn.Embedding` refuses such an id, or treats -1 as the last token.

    Args:
        config: The configuration of a whole model, or `None` if it cannot be read.
    """
    padding = getattr(config, "pad_token_id", None)
    return {} if padding is None or _is_id(padding, getattr(config, "vocab_size", None)) else {"pad_token_id": None}


def find_padding(model: PreTrainedModel, path: str) -> None:
    """Set the padding id of a model whose configuration has none, from the tokenizer stored with the model."""
    from transformers import AutoTokenizer

    if padding_of(model) is not None:
        return
    tokenizer: PreTrainedTokenizerBase | None = None
    with suppress(Exception):  # tokenizer libraries may raise anything; the data load theirs and report errors
        source = tokenizer_source(path)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=is_unreachable(source, "model"), **STRANGERS)
    settle_padding(model, tokenizer)


def with_padding_of(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with the model's padding token wherever the attention mask is 0."""
    ids, mask, padding = inputs.get("input_ids"), inputs.get("attention_mask"), padding_of(model)
    if ids is None or mask is None or padding is None or mask.shape != ids.shape:
        return dict(inputs)
    return {**inputs, "input_ids": ids.masked_fill(mask == 0, padding)}


def _is_id(value: Any, size: int | None) -> bool:
    return isinstance(value, int) and value >= 0 and (size is None or value < size)


def _counts_from_padding(model: nn.Module) -> bool:
    """Return whether the table of positions has a row for padding."""
    return any(
        "position" in name and isinstance(getattr(module, "padding_idx", None), int)
        for name, module in model.named_modules()
    )
