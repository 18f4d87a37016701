"""Data of sentences and pairs of sentences, of any origin."""

from collections.abc import Sequence
from typing import Any

from lightning_sparsegrad.data._labels import Problem
from lightning_sparsegrad.data._loaded import LoadedDataModule
from lightning_sparsegrad.data.encodings import SequenceEncoding


class TextDataModule(LoadedDataModule):
    """Sentences or pairs of sentences with a label, from a hub, a local folder or local files.

    Labels that are texts, whole numbers, booleans or dates are classes, whose ids follow the sorted order and whose
    names are the labels as written. Floats are regression targets, and so are whole numbers with
    `problem="regression"`. Batches are those of `SequenceEncoding`.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`.
        text_columns: The column of the text, or the two columns of a pair.
        label_column: The column of the labels. The split to predict needs none.
        label_names: The names of the classes in the order of their ids; by default read from the train split. Integers
            in the label column are ids, 0 to n-1, unless one of the names is a number: then they are names.
        problem: `"classification"` or `"regression"`; by default derived from the labels, and regression for a model
            with `num_labels=1`.
        **kwargs: Arguments of `LoadedDataModule` and `TokenizedDataModule`: `dataset_config`, `revision`, `data_files`,
            `splits`, `validation_fraction`, `split_seed` and `train_language`; `tokenizer`, `max_length`, `batch_size`,
            `eval_batch_size`, `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If an argument is wrong, as far as can be checked without loading the data; errors in the
            data are raised when they are loaded.

    Example:
        >>> data = TextDataModule("nyu-mll/glue", dataset_config="mrpc", text_columns=["sentence1", "sentence2"])
        >>> data.encoding.text_columns
        ['sentence1', 'sentence2']
    """

    encoding: SequenceEncoding

    def __init__(
        self,
        dataset: str | None = None,
        *,
        text_columns: str | list[str] = "text",
        label_column: str = "label",
        label_names: Sequence[str | int] | None = None,
        problem: Problem | None = None,
        **kwargs: Any,
    ) -> None:
        encoding = SequenceEncoding(text_columns, label_column, label_names, problem)
        super().__init__(dataset, encoding=encoding, **kwargs)
