"""Rows of embeddings that a strategy names by tokens, looked up in the tokenizer of the data."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Protocol, runtime_checkable

from lightning_sparsegrad.errors import ConfigurationError, near_matches
from lightning_sparsegrad.transforms import TrainableRows
from lightning_sparsegrad.transforms.base import GradientTransform

_MARKS = "▁Ġ#"  # which tokenizers put before a token, for the start of a word or inside one
_ALIKE = 2  # first characters that a near match has in common with a token: vocabularies are large


@runtime_checkable
class _Tokenizer(Protocol):
    """The members of a tokenizer that are needed, as those of `transformers` have them."""

    @property
    def vocab_size(self) -> int: ...

    def get_vocab(self) -> Mapping[str, int]: ...


def with_token_rows(
    transform: GradientTransform, find: Callable[[], object], *, missing: str, report: Callable[[str], None]
) -> GradientTransform:
    """Return a strategy in which rows named by tokens are indices: a copy, or the strategy itself without such rows.

    Args:
        transform: The strategy.
        find: Returns the tokenizer, `None` if there is none; called only for such rows.
        missing: What should have a tokenizer, and what was found in its place, for the error without one.
        report: Called with a message about rows that were added.

    Raises:
        ConfigurationError: If there is no tokenizer, it has no such token, or no token was added to it.
    """
    if all(member.is_resolved for member in _of_rows(transform)):
        return transform
    transform = deepcopy(transform)
    for member in _of_rows(transform):
        if not member.is_resolved:
            tokens = _Tokens(_tokenizer(member, find(), missing))
            member.resolve(tokens.row, tokens.added(report) if "added" in member.rows.values() else [])
    return transform


def _of_rows(transform: GradientTransform) -> list[TrainableRows]:
    return [member for member in transform.flattened() if isinstance(member, TrainableRows)]


def _tokenizer(strategy: TrainableRows, tokenizer: object, missing: str) -> _Tokenizer:
    if tokenizer is None:
        raise ConfigurationError(f"Parameter `rows` of `{strategy!r}` should hold indices, unless {missing}.")
    if not isinstance(tokenizer, _Tokenizer):
        raise ConfigurationError(
            f"Tokenizers should have `vocab_size` and `get_vocab`, as those of `transformers` do, for `rows` of "
            f"`{strategy!r}`. Found a `{type(tokenizer).__name__}`."
        )
    return tokenizer


class _Tokens:
    """The tokens of a tokenizer.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self._base, self._ids, self._kind = tokenizer.vocab_size, tokenizer.get_vocab(), type(tokenizer).__name__

    def row(self, text: str) -> int:
        """Return the id of a token."""
        if text not in self._ids:
            start = _bare(text)[:_ALIKE]
            near = near_matches(text, (token for token in self._ids if _bare(token).startswith(start)))
            raise ConfigurationError(
                f"Parameter `rows` should name tokens as the tokenizer has them, with the mark of a word's start. "
                f"Found {text!r}, which is no token of `{self._kind}`.{near}"
            )
        return self._ids[text]

    def added(self, report: Callable[[str], None]) -> list[int]:
        """Return the ids of all tokens beyond the base vocabulary."""
        by_id = {index: token for token, index in self._ids.items() if index >= self._base}
        if not by_id:
            raise ConfigurationError(
                f"Parameter `rows` with 'added' should go with a tokenizer that has tokens beyond its base vocabulary. "
                f"Found none in `{self._kind}`, of {self._base:,} tokens: `tokenizer.add_tokens([...])` adds some, and "
                f"`tokenizer.save_pretrained(folder)` keeps them."
            )
        ids = sorted(by_id)
        ends = " to ".join(f"{index} ({by_id[index]!r})" for index in dict.fromkeys((ids[0], ids[-1])))
        report(f"Rows 'added': {len(ids):,} tokens beyond the base vocabulary, {ends}.")
        return ids


def _bare(token: str) -> str:
    return token.lstrip(_MARKS).casefold()
