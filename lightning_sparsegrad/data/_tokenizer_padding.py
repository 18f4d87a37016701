"""The padding token and the padding side of a data module's tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def settle_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str, config: Any) -> None:
    """Set a tokenizer's padding token, and the padding side that the heads of models expect.

    A tokenizer without a padding token gets that of the model if it is one of its special tokens, else its own end
    token. A tokenizer saved with left padding, which is used to generate text, gets right padding, since heads that
    read the first token and positions counted from it would meet padding. A tokenizer whose class pads on the left,
    such as XLNet's, keeps it.

    Args:
        tokenizer: The tokenizer, which is changed in place.
        name: Its name.
        config: The configuration of the model, if it is known.

    Raises:
        ConfigurationError: If neither token exists.
    """
    padding = None if config is None else getattr(config.get_text_config(), "pad_token_id", None)
    if tokenizer.pad_token is None:
        of_model = None if padding is None else tokenizer.added_tokens_decoder.get(padding)
        tokenizer.pad_token = tokenizer.eos_token if of_model is None else str(of_model)
    if tokenizer.pad_token is None:
        raise ConfigurationError(f"Tokenizer `{name}` should have a padding or an end token. Found neither.")
    reads_last = getattr(config, "summary_type", None) == "last"
    if type(tokenizer).padding_side == "right" and not reads_last:
        tokenizer.padding_side = "right"
