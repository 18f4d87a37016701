"""What data modules for sequence classification and regression share."""

from abc import ABC
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from datasets import Dataset

from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.data.checks import require_columns
from lightning_sparsegrad.data.labels import LabelSpace
from lightning_sparsegrad.errors import ConfigurationError


class SequenceDataModule(TokenizedDataModule, ABC):
    """Abstract data module of rows with one text or a pair of texts, and one label.

    Batches hold `input_ids` and `attention_mask` (and `token_type_ids` where the tokenizer makes them), integers of
    shape (batch, length), and `labels` of shape (batch,): class ids, or floats for regression.

    Args:
        text_columns: The column of the text, or the two columns of a pair.
        label_column: The column of the labels: text or integers are classes, floats are regression targets.
        label_names: The names of the classes in the order of their ids; read from the train split by default.
        **kwargs: What `TokenizedDataModule` takes.

    Raises:
        ConfigurationError: If there are not one or two text columns, the label column is one of them, or there are not
            two or more different names.
    """

    def __init__(
        self,
        *,
        text_columns: str | list[str] = "text",
        label_column: str = "label",
        label_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text_columns = [text_columns] if isinstance(text_columns, str) else list(text_columns)
        self.label_column = label_column
        self._label_names = label_names
        if len(self.text_columns) not in (1, 2):
            raise ConfigurationError(
                f"Parameter `text_columns` should be one column or two. Found `text_columns = {text_columns!r}`."
            )
        if label_column in self.text_columns:
            raise ConfigurationError(
                f"Parameter `label_column` should differ from `text_columns`. Found `label_column = {label_column!r}`."
            )
        if label_names is not None and not 2 <= len(set(label_names)) == len(label_names):
            raise ConfigurationError(
                f"Parameter `label_names` should be two or more different names. Found `label_names = {label_names!r}`."
            )

    @property
    def num_labels(self) -> int:
        """The number of outputs a model needs: the number of classes, or 1 for regression.

        It is there before `setup`, so that a model can be built with it; the data is loaded when it is first asked for.
        """
        return self.label_space.num_labels

    @property
    def label_names(self) -> list[str]:
        """The names of the classes in the order of their ids; empty for regression."""
        return list(self.label_space.names)

    @cached_property
    def label_space(self) -> LabelSpace:
        """What the labels may be, read from the train split, or from the first split where there is none to train on.

        Raises:
            ConfigurationError: If the label column is missing, or its values are no labels.
        """
        splits = self.splits_of_source
        split = "train" if "train" in splits else next(iter(splits))
        rows = self.rows(split)
        require_columns(rows, {self.label_column: "label_column"}, split)
        return LabelSpace.infer(rows, self.label_column, self._label_names)

    def encode(self, split: str, rows: Dataset) -> Dataset:
        """Return the token ids of the texts and the checked labels; no labels for the split to predict.

        Raises:
            ConfigurationError: If a column is missing, a text is missing or no text, or a label is none of the labels.
        """
        require_columns(rows, dict.fromkeys(self.text_columns, "text_columns"), split)
        _require_text(rows, self.text_columns, split)
        return self._with_labels(split, rows).map(
            self.tokenizer,
            input_columns=self.text_columns,
            batched=True,
            remove_columns=self.text_columns,
            fn_kwargs={"truncation": True, "max_length": self.max_length},
            desc=f"Tokenizing {split}",
        )

    def _with_labels(self, split: str, rows: Dataset) -> Dataset:
        if split == "predict":
            return rows.select_columns(self.text_columns)
        require_columns(rows, {self.label_column: "label_column"}, split)
        return self.label_space.encode(rows.select_columns([*self.text_columns, self.label_column]), split)


def _require_text(rows: Dataset, columns: Sequence[str], split: str) -> None:
    for column in columns:
        dtype = getattr(rows.features[column], "dtype", "list")
        if dtype not in ("string", "large_string"):
            raise ConfigurationError(f"Column `{column}` of split `{split}` should hold text. Found `{dtype}`.")
        texts = rows.select_columns(column).with_format("arrow")[:].column(column)
        if texts.null_count:
            raise ConfigurationError(
                f"Column `{column}` of split `{split}` should hold a text in every row, if an empty one. "
                f"Found {texts.null_count} rows without."
            )
        try:
            texts.validate(full=True)
        except ValueError as error:  # json and parquet are read without a look at it
            raise ConfigurationError(
                f"Column `{column}` of split `{split}` should hold text in UTF-8. Found: {error}."
            ) from error
