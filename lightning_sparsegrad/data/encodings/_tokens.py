"""The encoding of words with a label for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lightning_sparsegrad.data._checks import require_columns
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.data.encodings._base import Batch, Encoding, Tokens
from lightning_sparsegrad.data.encodings._sequence import require_names
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.metrics.spans import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class TokenEncoding(Encoding):
    """Encoding of the words of a sentence and a label for each.

    Batches have `input_ids` and `attention_mask` (and `token_type_ids` if the tokenizer returns them), integers of
    shape (batch, length), and `labels` of the same shape: the label of a word at its first token, and -100 at its other
    tokens, at special tokens and at padding. Words beyond `max_length` tokens are cut off. A batch for prediction has
    instead `word_index`, the index of a word in its sentence at its first token and -100 elsewhere, and `word_count` of
    shape (batch,).

    Args:
        words_column: The column of the words, lists of texts.
        tags_column: The column of their labels, lists of the same lengths.
        label_names: The names of the labels in the order of their ids; by default read from the train split.

    Raises:
        ConfigurationError: If there are not at least two different names.
    """

    task_kind = TaskKind.TOKEN_CLASSIFICATION
    # the tokenizers of RoBERTa and GPT-2 recognize a word within a sentence by the space before it
    tokenizer_options = {"add_prefix_space": True}  # noqa: RUF012  # read only
    padding = {"labels": IGNORED, "word_index": IGNORED}  # noqa: RUF012  # read only

    def __init__(
        self,
        words_column: str = "words",
        tags_column: str = "tags",
        label_names: Sequence[str | int] | None = None,
    ) -> None:
        self.words_column, self.tags_column = words_column, tags_column
        self.label_names = require_names(label_names)

    @property
    @override
    def reads(self) -> Reads:
        return Reads((self.words_column,), (self.tags_column,))

    @override
    def label_space(self, rows: Dataset, split: str, names: Sequence[str] | None = None) -> LabelSpace:
        """Return the label space.

        Raises:
            ConfigurationError: If the column of the labels is missing, or its values are not lists of labels.
        """
        require_columns(rows, {self.tags_column: "tags_column"}, split)
        tags = _flat(rows, self.tags_column, split)
        if names is not None:
            return LabelSpace.trained(tags, self.tags_column, names)
        space = LabelSpace.infer(tags, self.tags_column, self.label_names)
        if not space.names:
            raise ConfigurationError(f"Labels in column `{self.tags_column}` should be integers or text. Found floats.")
        return space

    @override
    def encode(self, rows: Dataset, split: str, tokens: Tokens, labels: LabelSpace | None) -> Dataset:
        """Return the token ids of the words and the labels at their first tokens.

        Raises:
            ConfigurationError: If a column is missing or does not have lists, a label is unknown, or the numbers of
                labels and words differ.
        """
        tokens.require_offsets()
        require_columns(rows, {self.words_column: "words_column"}, split)
        words = _flat(rows, self.words_column, split)
        if words.features[self.words_column].dtype not in ("string", "large_string"):
            raise ConfigurationError(
                f"Column `{self.words_column}` of split `{split}` should have lists of words. "
                f"Found lists of `{words.features[self.words_column].dtype}`."
            )
        columns, ids = [self.words_column], None
        if labels is not None:
            require_columns(rows, {self.tags_column: "tags_column"}, split)
            columns.append(self.tags_column)
            tags = _flat(rows, self.tags_column, split)
            different = list(dict.fromkeys(tags[self.tags_column]))
            ids = labels.ids(tags.features[self.tags_column], different, split)
            _require_same_lengths(rows, self.words_column, self.tags_column, split)
        return rows.select_columns(columns).map(
            _encode_words,
            batched=True,
            input_columns=columns,
            remove_columns=columns,
            fn_kwargs={"tokenizer": tokens.tokenizer, "max_length": tokens.max_length, "ids": ids},
            desc=f"Tokenizing {split}",
        )

    @override
    def decode(self, output: Mapping[str, Any], batch: Batch, labels: LabelSpace) -> list[Any]:
        """Return the labels of the words in each row; words that were cut off get `O`, `X` or the first label."""
        filler = next(name for name in ("O", "X", *labels.names) if name in labels.names)
        rows = [[filler] * count for count in batch["word_count"].tolist()]
        indices = batch["word_index"].tolist()
        for row, predictions, word_indices in zip(rows, output["predictions"].tolist(), indices, strict=True):
            for prediction, index in zip(predictions, word_indices, strict=True):
                if index != IGNORED:
                    row[index] = labels.names[prediction]
        return rows


def _encode_words(
    words: list[list[str]],
    tags: list[list[Any]] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    ids: dict[Any, int] | None,
) -> dict[str, Any]:
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    indices = [_first_pieces(encoded.word_ids(row)) for row in range(len(words))]
    if tags is None or ids is None:
        return {**encoded, "word_index": indices, "word_count": [len(sentence) for sentence in words]}
    labels = [
        [IGNORED if index == IGNORED else ids[sentence[index]] for index in row]
        for row, sentence in zip(indices, tags, strict=True)
    ]
    return {**encoded, "labels": labels}


def _first_pieces(word_ids: list[int | None]) -> list[int]:
    before = [None, *word_ids]
    return [IGNORED if word is None or word == last else word for word, last in zip(word_ids, before, strict=False)]


def _flat(rows: Dataset, column: str, split: str) -> Dataset:
    """Return the entries of a column of lists, one after the other."""
    from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

    kind = rows.features[column]
    if not (isinstance(kind, List | LargeList) and isinstance(kind.feature, ClassLabel | Value)):
        raise ConfigurationError(
            f"Column `{column}` of split `{split}` should have lists of texts or labels. Found `{kind}`."
        )
    values = _lists(rows, column)
    if values.null_count:
        raise ConfigurationError(
            f"Column `{column}` of split `{split}` should have a list in every row; it may be empty. "
            f"Found {values.null_count} rows without."
        )
    entries = values.flatten()
    if entries.null_count:
        raise ConfigurationError(
            f"Column `{column}` of split `{split}` should have lists without nulls. Found {entries.null_count} nulls."
        )
    return Dataset.from_dict({column: entries}, features=Features({column: kind.feature}))


def _lists(rows: Dataset, column: str) -> Any:
    return rows.select_columns(column).with_format("arrow")[:].column(column).combine_chunks()


def _require_same_lengths(rows: Dataset, words: str, tags: str, split: str) -> None:
    lengths = [_lists(rows, name).value_lengths().to_pylist() for name in (words, tags)]
    wrong = next((row for row, (one, other) in enumerate(zip(*lengths, strict=True)) if one != other), None)
    if wrong is not None:
        raise ConfigurationError(
            f"Columns `{words}` and `{tags}` of split `{split}` should have the same length in each row. "
            f"Found {lengths[0][wrong]} and {lengths[1][wrong]} in row {wrong}."
        )
