"""Data of queries and graded answers, of any origin."""

from collections.abc import Sequence
from typing import Any

from lightning_sparsegrad.data._labels import Problem
from lightning_sparsegrad.data._loaded import LoadedDataModule
from lightning_sparsegrad.data.encodings import RankingEncoding


class RankingsDataModule(LoadedDataModule):
    """Queries and answers with a grade, from a hub, a local folder or local files; for `PointwiseRanking`.

    The answers to one query are consecutive rows. Batches are those of `RankingEncoding`.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`.
        query_column: The column of the query.
        text_columns: The two columns that are encoded, query and answer.
        label_column: The column of the grades: whole numbers, which count by their rank (1, 2 and 5 as 0, 1 and 2), or
            floats. The split to predict needs none.
        label_names: The names of the grades in the order of their ids; by default read from the train split.
        problem: `"classification"` to learn the grades as classes, or `"regression"` to learn them as numbers; by
            default the former for whole numbers and the latter for floats.
        **kwargs: Arguments of `LoadedDataModule` and `TokenizedDataModule`: `dataset_config`, `revision`, `data_files`,
            `splits`, `validation_fraction`, `split_seed` and `train_language`; `tokenizer`, `max_length`, `batch_size`,
            `eval_batch_size`, `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If an argument is wrong, as far as can be checked without loading the data; errors in the
            data are raised when they are loaded.

    Example:
        >>> RankingsDataModule("searches", text_columns=["query", "title"]).encoding.query_column
        'query'
    """

    encoding: RankingEncoding

    def __init__(
        self,
        dataset: str | None = None,
        *,
        query_column: str = "query",
        text_columns: str | list[str],
        label_column: str = "label",
        label_names: Sequence[str | int] | None = None,
        problem: Problem | None = None,
        **kwargs: Any,
    ) -> None:
        encoding = RankingEncoding(
            query_column,
            text_columns=text_columns,
            label_column=label_column,
            label_names=label_names,
            problem=problem,
        )
        super().__init__(dataset, encoding=encoding, **kwargs)
