"""Questions about texts, of any origin."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_sparsegrad.data._loaded import LoadedDataModule
from lightning_sparsegrad.data._predictions import write_table
from lightning_sparsegrad.data.encodings import AnswerEncoding


class QuestionsDataModule(LoadedDataModule):
    """Questions about texts that hold the answers, as SQuAD's; for `ExtractiveQuestionAnswering`.

    Rows come from a hub, a local folder or local files. Batches are those of `AnswerEncoding`; `batch_size` counts
    windows when training, and `eval_batch_size` questions, with all windows of their texts. A json file may be nested
    as SQuAD's own are: articles, paragraphs, questions.

    Questions may have no answer, as in SQuAD 2: their windows are learnt as all others that do not hold one.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`.
        question_column: The column of the questions.
        context_column: The column of the texts.
        answers_column: The column of the answers: `{"text": [...], "answer_start": [...]}`, in characters, or a list of
            such with one answer each; empty for a question without. The split to predict needs none.
        id_column: The column of names of the questions, which predictions are written with, where there is one.
        stride: How many tokens neighbouring windows of a long text share.
        max_question_length: The tokens a question is truncated to.
        **kwargs: What `LoadedDataModule` and `TokenizedDataModule` take: `dataset_config`, `revision`, `data_files`,
            `splits`, `validation_fraction`, `split_seed` and `train_language`; `tokenizer`, `max_length`, `batch_size`,
            `eval_batch_size`, `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If an argument cannot work as far as can be seen without loading anything; what the data
            shows is reported when it is loaded.

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
        """Return whether a question of the splits of a kind, such as `"train"`, has no answer."""
        if kind not in self._unanswerable:
            rows = map(self.rows, self.parts(kind).values())
            self._unanswerable[kind] = any(map(self.encoding.has_unanswerable, rows))
        return self._unanswerable[kind]

    @override
    def write_predictions(self, folder: Path, part: str, predictions: list[Any]) -> None:
        """Write the table of all data, `<part>.tsv`; with the ids of the questions, where they have some.

        `<part>.json` then holds the answers by id, as the evaluation of SQuAD takes them.
        """
        rows = self.rows(f"predict.{part}" if part else "predict")
        if self.id_column not in rows.column_names:
            super().write_predictions(folder, part, predictions)
            return
        ids = rows[self.id_column][: len(predictions)]
        write_table(folder / f"{part or 'predictions'}.tsv", predictions, id=ids)
        answers = dict(zip(map(str, ids), predictions, strict=True))
        if len(answers) < len(ids):
            rank_zero_warn(f"Questions share ids in column `{self.id_column}`: their answers are in the table alone.")
            return
        text = json.dumps(answers, ensure_ascii=False)
        (folder / f"{part or 'predictions'}.json").write_text(text, encoding="utf-8")
