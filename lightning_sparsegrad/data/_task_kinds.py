"""The kinds of tasks: which rows a task of this library takes, as the task states and its data ask."""

from enum import Enum
from typing import ClassVar


class TaskKind(Enum):
    """What is learned from a row. The value is the name of the task of this library."""

    SEQUENCE_CLASSIFICATION = "SequenceClassification"
    TOKEN_CLASSIFICATION = "TokenClassification"  # noqa: S105  # no password
    QUESTION_ANSWERING = "ExtractiveQuestionAnswering"
    RANKING = "PointwiseRanking"


class Task:
    """A module that states its kind, so that data of another kind are refused before a row is encoded."""

    task_kind: ClassVar[TaskKind | None] = None
    """The kind; `None` takes the rows of none."""
