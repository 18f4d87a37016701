"""Words, with a label for each."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from lightning_sparsegrad.data._checks import require_columns
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.data.encodings._base import Batch, Encoding, Tokens
from lightning_sparsegrad.data.encodings._sequence import require_names
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.metrics.spans import IGNORED


class TokenEncoding(Encoding):
    """The words of a sentence, and a label for each.

    Batches hold `input_ids` and `attention_mask` (and `token_type_ids` where the tokenizer makes them), integers of
    shape (batch, length), and `labels` of the same shape: the label of a word at its first piece, -100 at its other
    pieces, at special tokens and at padding. Words beyond `max_length` tokens are not seen. A batch to predict holds
    instead `word_index`, the place of a word in its sentence at its first piece, else -100, and `word_count` of shape
    (batch,).

    Args:
        words_column: The column of the words, a list of texts.
        tags_column: The column of their labels, a list as long.
        label_names: The names of the labels in the order of their ids; read from the train split by default.

    Raises:
        ConfigurationError: If there are not two or more different names.
    """

    task_kind = TaskKind.TOKEN_CLASSIFICATION
    # RoBERTa's and GPT-2's tell words within a sentence by the blank before them
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
        """Return what the labels may be.

        Raises:
            ConfigurationError: If the column of the labels is missing, or its values are no lists of labels.
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
        """Return the token ids of the words and the labels of their first pieces.

        Raises:
            ConfigurationError: If a column is missing or holds no lists, a label is none of the labels, or there are
                not as many labels as words.
        """
        tokens.require_places()
        require_columns(rows, {self.words_column: "words_column"}, split)
        words = _flat(rows, self.words_column, split)
        if words.features[self.words_column].dtype not in ("string", "large_string"):
            raise ConfigurationError(
                f"Column `{self.words_column}` of split `{split}` should hold lists of words. "
                f"Found lists of `{words.features[self.words_column].dtype}`."
            )
        columns, ids = [self.words_column], None
        if labels is not None:
            require_columns(rows, {self.tags_column: "tags_column"}, split)
            columns.append(self.tags_column)
            tags = _flat(rows, self.tags_column, split)
            found = list(dict.fromkeys(tags[self.tags_column]))
            ids = labels.ids(tags.features[self.tags_column], found, split)
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
        """Return the names of the labels of each row's words; of one that was truncated away, what says nothing."""
        filler = next(name for name in ("O", "X", *labels.names) if name in labels.names)
        rows = [[filler] * count for count in batch["word_count"].tolist()]
        places = batch["word_index"].tolist()
        for row, predictions, where in zip(rows, output["predictions"].tolist(), places, strict=True):
            for prediction, place in zip(predictions, where, strict=True):
                if place != IGNORED:
                    row[place] = labels.names[prediction]
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
    places = [_first_pieces(encoded.word_ids(row)) for row in range(len(words))]
    if tags is None or ids is None:
        return {**encoded, "word_index": places, "word_count": [len(sentence) for sentence in words]}
    labels = [
        [IGNORED if place == IGNORED else ids[sentence[place]] for place in row]
        for row, sentence in zip(places, tags, strict=True)
    ]
    return {**encoded, "labels": labels}


def _first_pieces(word_ids: list[int | None]) -> list[int]:
    before = [None, *word_ids]
    return [IGNORED if word is None or word == last else word for word, last in zip(word_ids, before, strict=False)]


def _flat(rows: Dataset, column: str, split: str) -> Dataset:
    """Return the entries of a column of lists, one after the other."""
    kind = rows.features[column]
    if not (isinstance(kind, List | LargeList) and isinstance(kind.feature, ClassLabel | Value)):
        raise ConfigurationError(
            f"Column `{column}` of split `{split}` should hold lists of texts or labels. Found `{kind}`."
        )
    values = _lists(rows, column)
    if values.null_count:
        raise ConfigurationError(
            f"Column `{column}` of split `{split}` should hold a list in every row, if an empty one. "
            f"Found {values.null_count} rows without."
        )
    entries = values.flatten()
    if entries.null_count:
        raise ConfigurationError(
            f"Column `{column}` of split `{split}` should hold lists without gaps. Found {entries.null_count} missing."
        )
    return Dataset.from_dict({column: entries}, features=Features({column: kind.feature}))


def _lists(rows: Dataset, column: str) -> Any:
    return rows.select_columns(column).with_format("arrow")[:].column(column).combine_chunks()


def _require_same_lengths(rows: Dataset, words: str, tags: str, split: str) -> None:
    lengths = [_lists(rows, name).value_lengths().to_pylist() for name in (words, tags)]
    wrong = next((row for row, (one, other) in enumerate(zip(*lengths, strict=True)) if one != other), None)
    if wrong is not None:
        raise ConfigurationError(
            f"Columns `{words}` and `{tags}` of split `{split}` should be of the same length in each row. "
            f"Found {lengths[0][wrong]} and {lengths[1][wrong]} in row {wrong}."
        )
