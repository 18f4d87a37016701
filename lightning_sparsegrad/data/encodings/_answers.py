"""The encoding of questions about texts that contain the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from lightning_sparsegrad.data._checks import require_at_least, require_columns
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.data.encodings._base import Batch, Encoding, Tokens, kind_of, require_text
from lightning_sparsegrad.errors import ConfigurationError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_NO_TEXT = (-1, -1)


class AnswerEncoding(Encoding):
    """Encoding of a question, a text, and the answers, which are spans of the text.

    A text that is too long is split into overlapping features, each with the question in front. A training batch has
    one feature per row: `input_ids` and `attention_mask` (and `token_type_ids` if the tokenizer returns them), integers
    of shape (features, length), and `start_positions` and `end_positions` of shape (features,), the first and last
    token of the first answer, or the first token of the feature if it does not contain the whole answer or there is
    none. A batch for evaluation or prediction has all features of its rows, and `window_row`, `offsets`, `contexts` and
    `answers` as in `ExtractiveQuestionAnswering`; the answer to a question without one is an empty text.

    Args:
        question_column: The column of the questions.
        context_column: The column of the texts.
        answers_column: The column of the answers: `{"text": [...], "answer_start": [...]}`, in characters, or a list of
            such dicts with one answer each; empty if the text does not answer the question, as in SQuAD 2.
        stride: The number of tokens that adjacent features share.
        max_question_length: The number of tokens that a question is truncated to.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    task_kind = TaskKind.QUESTION_ANSWERING
    labels: ClassVar[tuple[str, ...]] = ("start", "end")
    """The two outputs per token: whether it is the first token of the answer, and whether it is the last."""

    padding = {"offsets": _NO_TEXT}  # noqa: RUF012  # read only

    def __init__(
        self,
        question_column: str = "question",
        context_column: str = "context",
        answers_column: str = "answers",
        *,
        stride: int = 128,
        max_question_length: int = 64,
    ) -> None:
        require_at_least(0, stride=stride)
        require_at_least(1, max_question_length=max_question_length)
        self.columns = [question_column, context_column]
        self.answers_column = answers_column
        self.stride, self.max_question_length = stride, max_question_length

    @property
    @override
    def reads(self) -> Reads:
        return Reads(tuple(self.columns), (self.answers_column,))

    @override
    def label_space(self, rows: Dataset, split: str, names: Sequence[str] | None = None) -> LabelSpace:
        """Return the outputs per token."""
        return LabelSpace(self.answers_column, self.labels)

    @override
    def encode(self, rows: Dataset, split: str, tokens: Tokens, labels: LabelSpace | None) -> Dataset:
        """Return the features, one per row for training, otherwise all features of a row together.

        Raises:
            ConfigurationError: If a column or a text is missing, a value is not text, a text does not contain its
                answer, no training question has an answer, there is no room for the text, or the tokenizer is not a
                fast one.
        """
        tokens.require_offsets()
        require_columns(rows, dict(zip(self.columns, ("question_column", "context_column"), strict=True)), split)
        require_text(rows, self.columns, split)
        self._require_room(tokens)
        columns = list(self.columns)
        if labels is not None:
            require_columns(rows, {self.answers_column: "answers_column"}, split)
            columns.append(self.answers_column)
            if kind_of(split) == "train" and not any(map(_has_answer, rows[self.answers_column])):
                raise ConfigurationError(
                    f"Column `{self.answers_column}` of split `{split}` should have an answer in some row. Found none."
                )
        try:
            return rows.select_columns(columns).map(
                _encode_questions,
                batched=True,
                input_columns=columns,
                remove_columns=columns,
                fn_kwargs={
                    "tokenizer": tokens.tokenizer,
                    "max_length": tokens.max_length,
                    "stride": self.stride,
                    "max_question_length": self.max_question_length,
                    "is_train": kind_of(split) == "train",
                },
                desc=f"Tokenizing {split}",
            )
        except _AnswerError as error:
            pairs = zip(rows[self.answers_column], rows[self.columns[1]], strict=True)
            row = next(index for index, (given, context) in enumerate(pairs) if _is_wrong(given, context))
            raise ConfigurationError(
                f"Column `{self.answers_column}` of split `{split}` should {error} This is row {row}."
            ) from error

    def has_unanswerable(self, rows: Dataset) -> bool:
        """Return whether any row has a question without an answer."""
        return not all(map(_has_answer, rows[self.answers_column]))

    @override
    def decode(self, output: Mapping[str, Any], batch: Batch, labels: LabelSpace) -> list[Any]:
        """Return the answer to the question of each row."""
        return list(output["predictions"])

    @override
    def collate(self, tokens: Tokens, rows: list[dict[str, Any]], pad_to_multiple_of: int | None) -> Batch:
        if "windows" not in rows[0]:
            return self._collated(tokens, rows, pad_to_multiple_of)
        batch = self._collated(tokens, [window for row in rows for window in row["windows"]], pad_to_multiple_of)
        counts = torch.tensor([len(row["windows"]) for row in rows])
        batch["window_row"] = torch.repeat_interleave(torch.arange(len(rows)), counts)
        for name in ("contexts", "answers"):
            if name in rows[0]:
                batch[name] = [row[name] for row in rows]
        return batch

    def _collated(self, tokens: Tokens, windows: list[dict[str, Any]], pad_to_multiple_of: int | None) -> Batch:
        batch = super().collate(tokens, windows, pad_to_multiple_of)
        if tokens.tokenizer.padding_side == "left":
            for name in {"start_positions", "end_positions"} & batch.keys():
                batch[name] += (batch["attention_mask"] == 0).sum(1)
        return batch

    def _require_room(self, tokens: Tokens) -> None:
        special = tokens.tokenizer.num_special_tokens_to_add(pair=True)
        room = tokens.max_length - self.max_question_length - special
        if room <= self.stride:
            raise ConfigurationError(
                f"Parameter `max_length` should leave room for more than `stride` tokens beside a question of "
                f"`max_question_length` and {special} special tokens. Found `max_length = {tokens.max_length}`, "
                f"`stride = {self.stride}`, `max_question_length = {self.max_question_length}`."
            )


class _AnswerError(ValueError):
    """The end of an error sentence about the column of the answers."""


def _encode_questions(
    questions: list[str],
    contexts: list[str],
    answers: list[Any] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    max_question_length: int,
    is_train: bool,
) -> dict[str, Any]:
    encoded = tokenizer(
        _truncated(questions, tokenizer, max_question_length),
        contexts,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows, all_offsets = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
    spans = None if answers is None else [_spans(given, text) for given, text in zip(answers, contexts, strict=True)]
    windows: list[dict[str, Any]] = []
    for window, (row, offsets) in enumerate(zip(rows, all_offsets, strict=True)):
        parts = encoded.sequence_ids(window)
        inside = [tuple(where) if part == 1 else _NO_TEXT for where, part in zip(offsets, parts, strict=True)]
        feature: dict[str, Any] = {name: values[window] for name, values in encoded.items()}
        if spans is not None:
            positions = _tokens_of(spans[row][0], inside) if spans[row] else (0, 0)
            feature["start_positions"], feature["end_positions"] = positions
        windows.append(feature if is_train else {**feature, "offsets": inside})
    if is_train:
        return {name: [window[name] for window in windows] for name in windows[0]} if windows else {}
    by_row: list[list[dict[str, Any]]] = [[] for _ in contexts]
    for row, feature in zip(rows, windows, strict=True):
        by_row[row].append(feature)
    texts = {} if spans is None else {"answers": [[text for *_, text in each] or [""] for each in spans]}
    return {"windows": by_row, "contexts": contexts, **texts}


def _truncated(questions: list[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[str]:
    """Return the questions without leading spaces, truncated to `length` tokens."""
    questions = [question.lstrip() for question in questions]
    ends = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        question[: offsets[length - 1][1]] if len(offsets) > length else question
        for question, offsets in zip(questions, ends, strict=True)
    ]


def _spans(answers: Any, context: str) -> list[tuple[int, int, str]]:
    """Return the start and end of each answer, in characters and without surrounding spaces, and its text.

    An answer without a text means that there is none.
    """
    spans = []
    for text, claimed in filter(_holds_text, _listed(answers)):
        start = min(_occurrences(text, context), key=lambda position: abs(position - claimed), default=None)
        if start is None:
            raise _AnswerError(f"have answers that occur in their texts. Found {text!r} not in {context[:80]!r} ...")
        blanks = len(text) - len(text.lstrip())
        spans.append((start + blanks, start + blanks + len(text.strip()), text))
    return spans


def _holds_text(answer: tuple[str, int]) -> bool:
    return bool(answer[0].strip())


def _has_answer(answers: Any) -> bool:
    """Return whether there is an answer; wrong formats are reported when the row is encoded."""
    try:
        return any(map(_holds_text, _listed(answers)))
    except _AnswerError:
        return True


def _is_wrong(answers: Any, context: str) -> bool:
    try:
        _spans(answers, context)
    except _AnswerError:
        return True
    return False


def _listed(answers: Any) -> list[tuple[str, int]]:
    """Return the text and the given start of each answer, in either format."""
    try:
        if isinstance(answers, list):
            return [(_text(answer["text"]), int(answer["answer_start"])) for answer in answers]
        return [(_text(text), int(start)) for text, start in zip(answers["text"], answers["answer_start"], strict=True)]
    except (TypeError, KeyError, ValueError) as error:
        raise _AnswerError(
            f"have answers as {{'text': [...], 'answer_start': [...]}}, or a list of such dicts with one answer each. "
            f"Found {answers!r}."
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _occurrences(text: str, context: str) -> Iterator[int]:
    position = context.find(text)
    while position >= 0:
        yield position
        position = context.find(text, position + 1)


def _tokens_of(span: tuple[int, int, str], offsets: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the first and last token of a span, or (0, 0) if the feature does not contain the whole span."""
    begin, finish, _ = span
    inside = [index for index, (start, end) in enumerate(offsets) if start < finish and end > begin]
    if not inside or offsets[inside[0]][0] > begin or offsets[inside[-1]][1] < finish:
        return 0, 0
    return inside[0], inside[-1]
