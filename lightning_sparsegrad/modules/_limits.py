"""The longest input, the vocabulary and the token types of a model, determined by calling its embeddings."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional.sharding import is_spread
from lightning_sparsegrad.modules._padding import padding_of, vocabulary_of, with_padding_of
from lightning_sparsegrad.modules._probe import embed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attempt = Callable[[nn.Module, dict[str, Any]], None]

_OUT_OF_RANGE = (IndexError, RuntimeError)  # a look-up out of range; shapes that do not match


def is_on_cpu(model: nn.Module) -> bool:
    """Return whether a look-up out of range is safe to try.

    On an accelerator it would kill the process. Shards would wait for the other processes, which may not call them.
    """
    return all(parameter.device.type == "cpu" and not is_spread(parameter) for parameter in model.parameters())


def require_fit(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    *,
    name: str,
    max_length: int | None,
    tokenizer: str | None,
    attempt: Attempt = embed,
) -> None:
    """Check that a model has embeddings and positions for a batch.

    Args:
        model: The model, on the CPU.
        inputs: Its inputs, without labels.
        name: The model's name.
        max_length: The `max_length` of the data, if it is known.
        tokenizer: The name of its tokenizer, if it is known.
        attempt: A function that runs the model up to the layers to check.

    Raises:
        ConfigurationError: If a token id or a token type is out of range, or the rows are too long.
    """
    inputs = with_padding_of(model, inputs)

    def fits(**changed: Any) -> bool:
        try:
            attempt(model, {**inputs, **changed})
        except _OUT_OF_RANGE:
            return False
        return True

    if fits():
        return
    ids: Tensor = inputs["input_ids"]
    size, largest = vocabulary_of(model), int(ids.max())
    known = "" if tokenizer is None else f"`tokenizer = {tokenizer}`, which makes "
    if size is not None and largest >= size:
        raise ConfigurationError(
            f"Parameter `tokenizer` should name one whose token ids are below {size}, the size of the vocabulary of "
            f"`{name}`. Found {known}token id {largest}."
        )
    types = inputs.get("token_type_ids")
    if types is not None and fits(token_type_ids=types * 0):
        allowed = next(each for each in count(1) if not fits(token_type_ids=types.clamp(max=each)))
        raise ConfigurationError(
            f"Parameter `tokenizer` should name one whose token types are below {allowed}, the number that model "
            f"`{name}` embeds. Found {known}token type {int(types.max())}."
        )
    if longest := _longest(ids.shape[1], lambda length: fits(**_cut(inputs, length))):
        given = "" if max_length is None else f"`max_length = {max_length}` and "
        raise ConfigurationError(
            f"Parameter `max_length` should be at most {longest} for model `{name}`. "
            f"Found {given}a batch of {ids.shape[1]} tokens."
        )


def longest_row(model: PreTrainedModel, length: int) -> int:
    """Return the number of tokens, up to `length`, that a model has positions for; 0 if that cannot be tried.

    Args:
        model: The model, on the CPU.
        length: The number of tokens to try.
    """
    ids = torch.full((1, length), int(padding_of(model) == 0))  # some models count positions without padding

    def fits(count: int) -> bool:
        try:
            embed(model, {"input_ids": ids[:, :count], "attention_mask": torch.ones_like(ids[:, :count])})
        except _OUT_OF_RANGE:
            return False
        return True

    return length if fits(length) else _longest(length, fits)


def _longest(length: int, fits: Callable[[int], bool]) -> int:
    return bisect(range(1, length + 1), False, key=lambda count: not fits(count))


def _cut(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    shape = inputs["input_ids"].shape
    return {
        name: value[:, :length] for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == shape
    }
