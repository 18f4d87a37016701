"""The encoding of graded answers to queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lightning_sparsegrad.data._checks import require_columns
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.data.encodings._base import Batch, Tokens
from lightning_sparsegrad.data.encodings._sequence import SequenceEncoding

if TYPE_CHECKING:
    from datasets import Dataset


class RankingEncoding(SequenceEncoding):
    """Encoding of a query and a graded answer: a pair as in `SequenceEncoding`, and its query.

    Batches also have `group` of shape (batch,), the same integer for all answers to one query. As in XGLUE's
    evaluation, these are consecutive rows with the same text in the query column.

    Args:
        query_column: The column of the query.
        **kwargs: The arguments of `SequenceEncoding`.

    Raises:
        ConfigurationError: In the same cases as `SequenceEncoding`.
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
        scores: list[Any] = output["predictions"].tolist()
        return scores

    @override
    def sample(self, rows: Dataset, count: int) -> Dataset:
        """Return the first rows, without the last query if it would be split, unless it is the only one."""
        if self.query_column in rows.column_names:  # otherwise `encode` reports it
            queries = rows[self.query_column][: count + 1]
            starts = [row for row in range(1, count + 1) if queries[row - 1] != queries[row]]
            count = starts[-1] if starts else count
        return rows.select(range(count))
