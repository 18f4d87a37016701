"""Data of questions about texts, of any origin."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_sparsegrad.data._loaded import LoadedDataModule
from lightning_sparsegrad.data._predictions import write_table
from lightning_sparsegrad.data.encodings import AnswerEncoding


class QuestionsDataModule(LoadedDataModule):
    """Questions about texts that contain the answers, like SQuAD's; for `ExtractiveQuestionAnswering`.

    Rows come from a hub, a local folder or local files. Batches are those of `AnswerEncoding`; `batch_size` counts
    features, and `eval_batch_size` counts questions, with all features of their texts. A JSON file may be nested like
    SQuAD's own: articles, paragraphs, questions.

    Questions may have no answer, as in SQuAD 2: their features train like all others without an answer.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`.
        question_column: The column of the questions.
        context_column: The column of the texts.
        answers_column: The column of the answers: `{"text": [...], "answer_start": [...]}`, in characters, or a list of
            such dicts with one answer each; empty for a question without an answer. The split to predict needs none.
        id_column: The column of the ids of the questions, which are written with predictions if it exists.
        stride: The number of tokens that adjacent features of a long text share.
        max_question_length: The number of tokens that a question is truncated to.
        **kwargs: Arguments of `LoadedDataModule` and `TokenizedDataModule`: `dataset_config`, `revision`, `data_files`,
            `splits`, `validation_fraction`, `split_seed` and `train_language`; `tokenizer`, `max_length`, `batch_size`,
            `eval_batch_size`, `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If an argument is wrong, as far as can be checked without loading the data; errors in the
            data are raised when they are loaded.

    Example:
        >>> QuestionsDataModule("rajpurkar/squad", max_length=384).encoding.stride
        128
    """

    encoding: AnswerEncoding
    labels = AnswerEncoding.labels

    def __init__(
        self,
        dataset: str | None = None,
        *,
        question_column: str = "question",
        context_column: str = "context",
        answers_column: str = "answers",
        id_column: str = "id",
        stride: int = 128,
        max_question_length: int = 64,
        **kwargs: Any,
    ) -> None:
        encoding = AnswerEncoding(
            question_column, context_column, answers_column, stride=stride, max_question_length=max_question_length
        )
        super().__init__(dataset, encoding=encoding, **kwargs)
        self.id_column = id_column
        self._unanswerable: dict[str, bool] = {}

    def has_unanswerable(self, kind: str) -> bool:
        """Return whether any question in splits of a kind, such as `"train"`, has no answer."""
        if kind not in self._unanswerable:
            rows = map(self.rows, self.parts(kind).values())
            self._unanswerable[kind] = any(map(self.encoding.has_unanswerable, rows))
        return self._unanswerable[kind]

    @override
    def write_predictions(self, folder: Path, part: str, predictions: list[Any]) -> None:
        """Write the table of predictions, `<part>.tsv`, with the ids of the questions if they have any.

        With ids, `<part>.json` holds the answers by id in the format of SQuAD's evaluation.
        """
        rows = self.rows(f"predict.{part}" if part else "predict")
        if self.id_column not in rows.column_names:
            super().write_predictions(folder, part, predictions)
            return
        ids = rows[self.id_column][: len(predictions)]
        write_table(folder / f"{part or 'predictions'}.tsv", predictions, id=ids)
        answers = dict(zip(map(str, ids), predictions, strict=True))
        if len(answers) < len(ids):
            rank_zero_warn(f"Questions share ids in column `{self.id_column}`: only the table has their answers.")
            return
        text = json.dumps(answers, ensure_ascii=False)
        (folder / f"{part or 'predictions'}.json").write_text(text, encoding="utf-8")
