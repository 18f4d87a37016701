"""The padding token of a data module's tokenizer, and the side it pads on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def settle_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str, config: Any) -> None:
    """Give a tokenizer a padding token, and the side on which the heads of models expect it.

    A tokenizer without a padding token pads with that of the model, if it has it as a special token, else with its end
    token. One that was saved to pad on the left, as is done to generate text, pads on the right: heads that read the
    first token, and positions that are counted from it, would meet padding there. Those made to pad on the left by
    their class, such as XLNet's, still do.

    Args:
        tokenizer: The tokenizer; it is changed.
        name: Its name.
        config: The configuration of the model, if it is known.

    Raises:
        ConfigurationError: If there is nothing to pad with.
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
