"""Answers to queries, with a grade for each."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from datasets import Dataset
from typing_extensions import override

from lightning_sparsegrad.data._checks import require_columns
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.data.encodings._base import Batch, Tokens
from lightning_sparsegrad.data.encodings._sequence import SequenceEncoding


class RankingEncoding(SequenceEncoding):
    """A query and an answer to it, with a grade: pairs that `SequenceEncoding` encodes, and the query they belong to.

    Batches also hold `group` of shape (batch,), the same integer for all answers to one query: consecutive rows with
    the same text in the query column, as XGLUE's evaluation has it.

    Args:
        query_column: The column of the query.
        **kwargs: What `SequenceEncoding` takes.

    Raises:
        ConfigurationError: As `SequenceEncoding` does.
    """

    task_kind = TaskKind.RANKING

    def __init__(self, query_column: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query_column = query_column

    @property
    @override
    def reads(self) -> Reads:
        return replace(super().reads, texts=tuple(dict.fromkeys([*self.text_columns, self.query_column])))

    @override
    def encode(self, rows: Dataset, split: str, tokens: Tokens, labels: LabelSpace | None) -> Dataset:
        require_columns(rows, {self.query_column: "query_column"}, split)
        queries = rows[self.query_column][:]
        groups = accumulate((before != query for before, query in pairwise(queries)), initial=0)
        return super().encode(rows, split, tokens, labels).add_column("group", list(groups))

    @override
    def decode(self, output: Mapping[str, Any], batch: Batch, labels: LabelSpace) -> list[Any]:
        """Return the score of each row."""
        found: list[Any] = output["predictions"].tolist()
        return found

    @override
    def sample(self, rows: Dataset, count: int) -> Dataset:
        """Return the first rows, without a query that would be torn apart unless there is no other."""
        if self.query_column in rows.column_names:  # `encode` reports it
            queries = rows[self.query_column][: count + 1]
            starts = [row for row in range(1, count + 1) if queries[row - 1] != queries[row]]
            count = starts[-1] if starts else count
        return rows.select(range(count))
