"""The base of encodings, from a row of text to token ids, labels, and a batch."""

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
    """Return what a split is for: `"validation"` for `"validation.de"`."""
    return split.partition(".")[0]


@dataclass(frozen=True)
class Tokens:
    """How texts become tokens.

    Args:
        tokenizer: The tokenizer.
        max_length: The tokens a row is truncated to, special ones included.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def require_places(self) -> None:
        """Check that the tokenizer tells where in a text its tokens are.

        Raises:
            ConfigurationError: If it does not.
        """
        if not self.tokenizer.is_fast:
            raise ConfigurationError(
                f"Parameter `tokenizer` should name one that tells where its tokens are (a fast one). "
                f"Found `{type(self.tokenizer).__name__}`."
            )


class Encoding(ABC):
    """Abstract: which columns of a row are read, and what they become."""

    task_kind: ClassVar[TaskKind]
    """The kind of task that its batches are for."""

    tokenizer_options: ClassVar[Mapping[str, Any]] = {}
    """What the tokenizer is loaded with."""

    padding: ClassVar[Mapping[str, Any]] = {}
    """What else is as long as the tokens, with the value that fills it up."""

    label_names: Sequence[str] | None = None
    """The names of the classes, where they are given."""

    @property
    def reads(self) -> Reads:
        """The columns that it reads from files; by default all are read as the values look."""
        return Reads()

    def learn_numbers(self) -> None:  # noqa: B027  # labels of most are classes only
        """Read labels as numbers unless an argument says what they are."""

    @abstractmethod
    def label_space(self, rows: Dataset, split: str, names: Sequence[str] | None = None) -> LabelSpace:
        """Return what the labels may be, read from the rows of a split; with the names a checkpoint holds, if any."""

    @abstractmethod
    def encode(self, rows: Dataset, split: str, tokens: Tokens, labels: LabelSpace | None) -> Dataset:
        """Return the token ids of the rows, and their labels unless the split is to be predicted."""

    @abstractmethod
    def decode(self, output: Mapping[str, Any], batch: Batch, labels: LabelSpace) -> list[Any]:
        """Return the prediction of each row in words: a name, a number, or a list of names."""

    def sample(self, rows: Dataset, count: int) -> Dataset:
        """Return `count` of the rows, the same every time."""
        return rows.shuffle(seed=0).select(range(count))

    def collate(self, tokens: Tokens, rows: list[dict[str, Any]], pad_to_multiple_of: int | None) -> Batch:
        """Return a batch of encoded rows, as long as the longest of them."""
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
        ConfigurationError: If a column holds something else, a text is missing, or one is not UTF-8.
    """
    for column in columns:
        dtype = getattr(rows.features[column], "dtype", rows.features[column])
        if dtype not in ("string", "large_string"):
            raise ConfigurationError(f"Column `{column}` of split `{split}` should hold text. Found `{dtype}`.")
        texts = rows.select_columns(column).with_format("arrow")[:].column(column)
        if texts.null_count:
            raise ConfigurationError(
                f"Column `{column}` of split `{split}` should hold a text in every row, if an empty one. "
                f"Found {texts.null_count} rows without."
            )
        try:
            texts.validate(full=True)
        except ValueError as error:  # json and parquet are read without a look at it
            raise ConfigurationError(
                f"Column `{column}` of split `{split}` should hold text in UTF-8. Found: {error}."
            ) from error
