"""The length, the vocabulary and the token types that a model takes, found by trying its embeddings."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.modules.padding import vocabulary_of, with_padding_of
from lightning_sparsegrad.modules.probe import embed

_OUT_OF_RANGE = (IndexError, RuntimeError)  # of a look-up; of shapes that do not match


def is_on_cpu(model: nn.Module) -> bool:
    """Return whether a look-up out of range can be tried: on an accelerator it would end the process."""
    return all(parameter.device.type == "cpu" for parameter in model.parameters())


def require_fit(
    model: PreTrainedModel, inputs: Mapping[str, Any], *, name: str, max_length: int | None, tokenizer: str | None
) -> None:
    """Check that a model has embeddings and positions for a batch.

    Args:
        model: The model, on the CPU.
        inputs: What it takes, without labels.
        name: The model's name.
        max_length: The `max_length` of the data, if it is known.
        tokenizer: The name of its tokenizer, if it is known.

    Raises:
        ConfigurationError: If a token id or a token type is out of range, or the rows are too long.
    """
    inputs = with_padding_of(model, inputs)
    if _fits(model, inputs):
        return
    ids: Tensor = inputs["input_ids"]
    size, largest = vocabulary_of(model), int(ids.max())
    known = "" if tokenizer is None else f"`tokenizer = {tokenizer}`, which makes "
    if size is not None and largest >= size:
        raise ConfigurationError(
            f"Parameter `tokenizer` should name one whose token ids are below {size}, as many as `{name}` embeds. "
            f"Found {known}token id {largest}."
        )
    types = inputs.get("token_type_ids")
    if types is not None and _fits(model, {**inputs, "token_type_ids": types * 0}):
        allowed = next(each for each in range(int(types.max()) + 1) if not _fits(model, _typed(inputs, each)))
        raise ConfigurationError(
            f"Parameter `tokenizer` should name one whose token types are below {allowed}, as many as model `{name}` "
            f"embeds. Found {known}token type {int(types.max())}."
        )
    longest = _longest(model, inputs)
    if longest:
        given = "" if max_length is None else f"`max_length = {max_length}` and "
        raise ConfigurationError(
            f"Parameter `max_length` should be at most {longest} for model `{name}`. "
            f"Found {given}a batch of {ids.shape[1]} tokens."
        )


def _fits(model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
    try:
        embed(model, inputs)
    except _OUT_OF_RANGE:
        return False
    return True


def _typed(inputs: Mapping[str, Any], kind: int) -> dict[str, Any]:
    return {**inputs, "token_type_ids": inputs["token_type_ids"] * 0 + kind}


def _longest(model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
    """Return how many tokens of the batch a model takes; 0 if length is not what is wrong."""
    fits, fails = 0, inputs["input_ids"].shape[1]
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _fits(model, _cut(inputs, middle)):
            fits = middle
        else:
            fails = middle
    return fits


def _cut(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    shape = inputs["input_ids"].shape
    return {
        name: value[:, :length] if isinstance(value, Tensor) and value.shape == shape else value
        for name, value in inputs.items()
    }
