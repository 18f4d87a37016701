"""The base of encodings, which turn rows of text into token ids, labels and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.errors import ConfigurationError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Any]


def kind_of(split: str) -> str:
    """Return the kind of a split, such as `"validation"` for `"validation.de"`."""
    return split.partition(".")[0]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer with its settings.

    Args:
        tokenizer: The tokenizer.
        max_length: The number of tokens that a row is truncated to, including special ones.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def require_offsets(self) -> None:
        """Check that the tokenizer returns the offsets of tokens in the text.

        Raises:
            ConfigurationError: If it does not.
        """
        if not self.tokenizer.is_fast:
            raise ConfigurationError(
                f"Parameter `tokenizer` should name one that returns the offsets of its tokens (a fast one). "
                f"Found `{type(self.tokenizer).__name__}`."
            )


class Encoding(ABC):
    """Abstract encoding from the columns of a row to the entries of a batch."""

    task_kind: ClassVar[TaskKind]
    """The kind of task for its batches."""

    tokenizer_options: ClassVar[Mapping[str, Any]] = {}
    """Options to load the tokenizer with."""

    padding: ClassVar[Mapping[str, Any]] = {}
    """Further entries of the same length as the tokens, with their padding values."""

    label_names: Sequence[str] | None = None
    """The names of the classes, if they were given."""

    @property
    def reads(self) -> Reads:
        """The columns to read from files; by default the types of all columns are derived from their values."""
        return Reads()

    def learn_numbers(self) -> None:  # noqa: B027  # most encodings only have classes
        """Read labels as numbers unless an argument sets the problem."""

    @abstractmethod
    def label_space(self, rows: Dataset, split: str, names: Sequence[str] | None = None) -> LabelSpace:
        """Return the label space of the rows of a split, with the names stored in a checkpoint if there are any.

        Args:
            rows: The rows.
            split: The split of the rows.
            names: The names of the classes in a checkpoint, in the order of their ids; empty for regression.
        """

    @abstractmethod
    def encode(self, rows: Dataset, split: str, tokens: Tokens, labels: LabelSpace | None) -> Dataset:
        """Return the token ids of the rows, and their labels unless the split is to be predicted.

        Args:
            rows: The rows.
            split: The split of the rows.
            tokens: The tokenizer with its settings.
            labels: The label space; `None` for a split without labels.
        """

    @abstractmethod
    def decode(self, output: Mapping[str, Any], batch: Batch, labels: LabelSpace) -> list[Any]:
        """Return the readable prediction of each row: a name, a number, or a list of names.

        Args:
            output: The result of the task's `predict`: `predictions`, with one entry per row.
            batch: The batch.
            labels: The label space.
        """

    def sample(self, rows: Dataset, count: int) -> Dataset:
        """Return `count` of the rows, the same in every run."""
        return rows.shuffle(seed=0).select(range(count))

    def collate(self, tokens: Tokens, rows: list[dict[str, Any]], pad_to_multiple_of: int | None) -> Batch:
        """Return a batch of encoded rows, padded to the longest of them.

        Args:
            tokens: The tokenizer with its settings.
            rows: The encoded rows.
            pad_to_multiple_of: Round the length up to a multiple of this, in tokens, at most `max_length`.
        """
        ragged = {name: [row[name] for row in rows] for name in self.padding if name in rows[0]}
        plain = [{name: value for name, value in row.items() if name not in ragged} for row in rows]
        batch = dict(tokens.tokenizer.pad(plain, pad_to_multiple_of=pad_to_multiple_of, return_tensors="pt"))
        length = batch["input_ids"].shape[1]
        left = tokens.tokenizer.padding_side == "left"
        for name, values in ragged.items():
            batch[name] = _padded(values, length, self.padding[name], left=left)
        return batch


def _padded(values: Sequence[Sequence[Any]], length: int, filler: Any, *, left: bool) -> Tensor:
    filled = []
    for row in values:
        rest = [filler] * (length - len(row))
        filled.append([*rest, *row] if left else [*row, *rest])
    return torch.tensor(filled)


def require_text(rows: Dataset, columns: Sequence[str], split: str) -> None:
    """Check that each row has a text in each of the columns.

    Raises:
        ConfigurationError: If a value is not text, is missing, or is not UTF-8.
    """
    for column in columns:
        dtype = getattr(rows.features[column], "dtype", rows.features[column])
        if dtype not in ("string", "large_string"):
            raise ConfigurationError(f"Column `{column}` of split `{split}` should have text. Found `{dtype}`.")
        texts = rows.select_columns(column).with_format("arrow")[:].column(column)
        if texts.null_count:
            raise ConfigurationError(
                f"Column `{column}` of split `{split}` should have a text in every row; it may be empty. "
                f"Found {texts.null_count} rows without."
            )
        try:
            texts.validate(full=True)
        except ValueError as error:  # json and parquet are read without decoding the text
            raise ConfigurationError(
                f"Column `{column}` of split `{split}` should have text in UTF-8. Found: {error}."
            ) from error
