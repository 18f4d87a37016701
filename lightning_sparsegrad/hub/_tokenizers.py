"""Tokenizers by name, with one-sentence errors about broken files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.hub._names import resolve_source
from lightning_sparsegrad.hub._network import STRANGERS, how_without, is_unreachable
from lightning_sparsegrad.hub._peft_adapters import tokenizer_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        name: Hub id, local folder or `package:` source; an adapter without a tokenizer uses that of its base model.
        options: Further arguments of `from_pretrained`.

    Raises:
        ConfigurationError: If it cannot be loaded, or its files are broken.
    """
    from transformers import AutoTokenizer

    source = tokenizer_source(resolve_source(name))
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, local_files_only=is_unreachable(source, "model"), **{**options, **STRANGERS}
        )
        longest = tokenizer.model_max_length
        if isinstance(longest, int | float) and longest >= 1:
            tokenizer("a")  # some can be loaded but not used
    except Exception as error:  # broken files may raise anything
        raise ConfigurationError(
            f"Tokenizer `{name}` should be a hub id or a local folder with the files of a tokenizer. "
            f"Found: {reason_of(error)}{how_without(source, 'model')}"
        ) from error
    if not isinstance(longest, int | float) or not longest >= 1:
        raise ConfigurationError(
            f"Tokenizer `{name}` should have a positive `model_max_length` in its `tokenizer_config.json`. "
            f"Found `model_max_length = {longest!r}`."
        )
    names = tokenizer.model_input_names
    if not names or not all(isinstance(each, str) for each in names):
        raise ConfigurationError(
            f"Tokenizer `{name}` should return inputs of a model. Found `model_input_names = {str(names)[:80]}`."
        )
    return tokenizer
