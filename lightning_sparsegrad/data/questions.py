"""Questions about texts, of any origin."""

from typing import Any

from lightning_sparsegrad.data.encodings import AnswerEncoding
from lightning_sparsegrad.data.loaded import LoadedDataModule


class QuestionsDataModule(LoadedDataModule):
    """Questions about texts that hold the answers, as SQuAD's; for `ExtractiveQuestionAnswering`.

    Rows come from a hub, a local folder or local files. Batches are those of `AnswerEncoding`; `batch_size` counts
    windows when training, and `eval_batch_size` questions, with all windows of their texts.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`.
        question_column: The column of the questions.
        context_column: The column of the texts.
        answers_column: The column of the answers: `{"text": [...], "answer_start": [...]}`, in characters, or a list of
            such with one answer each. The split to predict needs none.
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
        stride: int = 128,
        max_question_length: int = 64,
        **kwargs: Any,
    ) -> None:
        encoding = AnswerEncoding(
            question_column, context_column, answers_column, stride=stride, max_question_length=max_question_length
        )
        super().__init__(dataset, encoding=encoding, **kwargs)
