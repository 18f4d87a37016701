"""One padding token for model and tokenizer, and logits that do not depend on what a batch is padded with."""

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
    """Return how many token ids a model embeds; `None` where that is no table, as CANINE's hashes."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return len(weight) if isinstance(weight, Tensor) else None


def padding_of(model: PreTrainedModel) -> int | None:
    """Return the id that a model takes for padding; `None` if its configuration has none, or one out of range."""
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    return padding if _is_id(padding, vocabulary_of(model)) else None


def set_padding(model: PreTrainedModel, padding: int | None) -> None:
    """Set the id that a model takes for padding; a model of images and texts has it in its part for texts."""
    text = model.config.get_text_config()
    text.pad_token_id = padding
    if text is not model.config and hasattr(model.config, "pad_token_id"):
        model.config.pad_token_id = padding


def settle_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Make a model take for padding what the tokenizer of its batches pads with, if it embeds that.

    The head of a decoder reads the last token that is no padding. Without a padding token in either, that is an end
    token. A model that counts positions from its padding token, as RoBERTa does, keeps its own: its weights were
    trained with it.
    """
    own, size = padding_of(model), vocabulary_of(model)
    if own is not None and _counts_from_padding(model):
        return
    ends = getattr(model.config.get_text_config(), "eos_token_id", None)
    told = () if tokenizer is None else (tokenizer.pad_token_id, own, tokenizer.eos_token_id)
    candidates = (*told, own, *(ends if isinstance(ends, list | tuple) else [ends]))  # Llama 3 has several
    set_padding(model, next((each for each in candidates if _is_id(each, size)), None))


def padding_options(config: Any) -> dict[str, Any]:
    """Return what to load a model with whose configuration names a padding token that it does not embed.

    `torch.nn.Embedding` refuses it, or takes -1 for the last token.

    Args:
        config: The configuration of a whole model, or `None` if it cannot be read.
    """
    padding = getattr(config, "pad_token_id", None)
    return {} if padding is None or _is_id(padding, getattr(config, "vocab_size", None)) else {"pad_token_id": None}


def find_padding(model: PreTrainedModel, path: str) -> None:
    """Settle what a model whose configuration has no padding token takes for it, by the tokenizer that lies with it."""
    from transformers import AutoTokenizer

    if padding_of(model) is not None:
        return
    tokenizer: PreTrainedTokenizerBase | None = None
    with suppress(Exception):  # of any library of tokenizers; the data load theirs, and say what is wrong with it
        source = tokenizer_source(path)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=is_unreachable(source, "model"), **STRANGERS)
    settle_padding(model, tokenizer)


def with_padding_of(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with the model's padding token wherever the attention mask leaves a token out."""
    ids, mask, padding = inputs.get("input_ids"), inputs.get("attention_mask"), padding_of(model)
    if ids is None or mask is None or padding is None or mask.shape != ids.shape:
        return dict(inputs)
    return {**inputs, "input_ids": ids.masked_fill(mask == 0, padding)}


def _is_id(value: Any, size: int | None) -> bool:
    return isinstance(value, int) and value >= 0 and (size is None or value < size)


def _counts_from_padding(model: nn.Module) -> bool:
    """Return whether a table of positions has a row for padding."""
    return any(
        "position" in name and isinstance(getattr(module, "padding_idx", None), int)
        for name, module in model.named_modules()
    )
