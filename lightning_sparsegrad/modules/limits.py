"""The length, the vocabulary and the token types that a model takes, found by trying its embeddings."""

from bisect import bisect
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional.sharding import is_spread
from lightning_sparsegrad.modules.padding import vocabulary_of, with_padding_of
from lightning_sparsegrad.modules.probe import embed

Attempt = Callable[[nn.Module, dict[str, Any]], None]

_OUT_OF_RANGE = (IndexError, RuntimeError)  # of a look-up; of shapes that do not match


def is_on_cpu(model: nn.Module) -> bool:
    """Return whether a look-up out of range can be tried.

    On an accelerator it would end the process; shards would wait for the other processes, which may not try.
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
        inputs: What it takes, without labels.
        name: The model's name.
        max_length: The `max_length` of the data, if it is known.
        tokenizer: The name of its tokenizer, if it is known.
        attempt: Runs the model as far as its limits are looked for.

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
            f"Parameter `tokenizer` should name one whose token ids are below {size}, as many as `{name}` embeds. "
            f"Found {known}token id {largest}."
        )
    types = inputs.get("token_type_ids")
    if types is not None and fits(token_type_ids=types * 0):
        allowed = next(each for each in count(1) if not fits(token_type_ids=types.clamp(max=each)))
        raise ConfigurationError(
            f"Parameter `tokenizer` should name one whose token types are below {allowed}, as many as model `{name}` "
            f"embeds. Found {known}token type {int(types.max())}."
        )
    longest = bisect(range(1, ids.shape[1] + 1), False, key=lambda length: not fits(**_cut(inputs, length)))
    if longest:
        given = "" if max_length is None else f"`max_length = {max_length}` and "
        raise ConfigurationError(
            f"Parameter `max_length` should be at most {longest} for model `{name}`. "
            f"Found {given}a batch of {ids.shape[1]} tokens."
        )


def _cut(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    shape = inputs["input_ids"].shape
    return {
        name: value[:, :length] for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == shape
    }
