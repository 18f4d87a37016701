"""The kinds of tasks, by which data refuse a task that expects other batches."""

from enum import Enum
from typing import ClassVar


class TaskKind(Enum):
    """The kinds of tasks. A value is the class name of the task in this library."""

    SEQUENCE_CLASSIFICATION = "SequenceClassification"
    TOKEN_CLASSIFICATION = "TokenClassification"  # noqa: S105  # not a password
    QUESTION_ANSWERING = "ExtractiveQuestionAnswering"
    RANKING = "PointwiseRanking"


class Task:
    """A module with a kind, so that data of another kind are refused before any row is encoded."""

    task_kind: ClassVar[TaskKind | None] = None
    """The kind; `None` accepts no rows of this library's data."""
