"""The encoding of one text or a pair of texts with one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from typing_extensions import override

from lightning_sparsegrad.data._checks import require_columns
from lightning_sparsegrad.data._labels import LabelSpace, Problem
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.data.encodings._base import Batch, Encoding, Tokens, require_text
from lightning_sparsegrad.errors import ConfigurationError, require_one_of

if TYPE_CHECKING:
    from datasets import Dataset


class SequenceEncoding(Encoding):
    """Encoding of one text or a pair of texts, and one label, which is a class or a number.

    Batches have `input_ids` and `attention_mask` (and `token_type_ids` if the tokenizer returns them), integers of
    shape (batch, length), and `labels` of shape (batch,): class ids, or floats for regression. A pair that is too long
    is truncated at its longer text.

    Args:
        text_columns: The column of the text, or the two columns of a pair.
        label_column: The column of the labels: text or integers are classes, floats are regression targets.
        label_names: The names of the classes in the order of their ids; by default read from the train split.
        problem: `"classification"` or `"regression"`; by default derived from the labels, see `LabelSpace.infer`.

    Raises:
        ConfigurationError: If there are not one or two text columns, the label column is one of them, there are not at
            least two different names, or there are names for a regression.
    """

    task_kind = TaskKind.SEQUENCE_CLASSIFICATION

    def __init__(
        self,
        text_columns: str | list[str] = "text",
        label_column: str = "label",
        label_names: Sequence[str | int] | None = None,
        problem: Problem | None = None,
    ) -> None:
        self.text_columns = [text_columns] if isinstance(text_columns, str) else list(text_columns)
        self.label_column = label_column
        self.label_names = require_names(label_names)
        self.problem = problem
        if len(self.text_columns) not in (1, 2) or len(set(self.text_columns)) < len(self.text_columns):
            raise ConfigurationError(
                f"Parameter `text_columns` should be one column or two different ones. "
                f"Found `text_columns = {text_columns!r}`."
            )
        if label_column in self.text_columns:
            raise ConfigurationError(
                f"Parameter `label_column` should differ from `text_columns`. Found `label_column = {label_column!r}`."
            )
        if problem is not None:
            require_one_of("problem", problem, get_args(Problem))
        if problem == "regression" and label_names is not None:
            raise ConfigurationError(
                f"Parameter `label_names` should be left out for a regression. Found `label_names = {label_names!r}`, "
                f"`problem = {problem!r}`."
            )

    @property
    @override
    def reads(self) -> Reads:
        are_classes = self.problem == "classification" or self.label_names is not None
        return Reads(tuple(self.text_columns), (self.label_column,), are_classes)

    @override
    def learn_numbers(self) -> None:
        if self.problem is None and self.label_names is None:
            self.problem = "regression"

    @override
    def label_space(self, rows: Dataset, split: str, names: Sequence[str] | None = None) -> LabelSpace:
        """Return the label space.

        Raises:
            ConfigurationError: If the label column is missing, or its values cannot be labels.
        """
        require_columns(rows, {self.label_column: "label_column"}, split)
        if names is not None:
            return LabelSpace.trained(rows, self.label_column, names)
        return LabelSpace.infer(rows, self.label_column, self.label_names, self.problem)

    @override
    def encode(self, rows: Dataset, split: str, tokens: Tokens, labels: LabelSpace | None) -> Dataset:
        """Return the token ids of the texts and the checked labels.

        Raises:
            ConfigurationError: If a column or a text is missing, a value is not text, or a label is unknown.
        """
        require_columns(rows, dict.fromkeys(self.text_columns, "text_columns"), split)
        require_text(rows, self.text_columns, split)
        return self._with_labels(rows, split, labels).map(
            tokens.tokenizer,
            input_columns=self.text_columns,
            batched=True,
            remove_columns=self.text_columns,
            fn_kwargs={"truncation": True, "max_length": tokens.max_length},
            desc=f"Tokenizing {split}",
        )

    @override
    def decode(self, output: Mapping[str, Any], batch: Batch, labels: LabelSpace) -> list[Any]:
        """Return the class name, or the number, of each row."""
        predictions = output["predictions"].tolist()
        return [labels.names[label] for label in predictions] if labels.names else predictions

    def _with_labels(self, rows: Dataset, split: str, labels: LabelSpace | None) -> Dataset:
        if labels is None:
            return rows.select_columns(self.text_columns)
        require_columns(rows, {self.label_column: "label_column"}, split)
        return labels.encode(rows.select_columns([*self.text_columns, self.label_column]), split)


def require_names(label_names: Sequence[object] | None) -> list[str] | None:
    """Check that there are at least two different names, if any are given, and return them as text.

    Raises:
        ConfigurationError: If there are not.
    """
    if label_names is None:
        return None
    names = [str(name) for name in label_names]
    if not 2 <= len(set(names)) == len(names):
        raise ConfigurationError(
            f"Parameter `label_names` should be two or more different names. Found `label_names = {label_names!r}`."
        )
    return names
