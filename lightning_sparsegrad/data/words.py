"""Data of sentences with a label for each word, of any origin."""

from collections.abc import Sequence
from typing import Any

from lightning_sparsegrad.data._loaded import LoadedDataModule
from lightning_sparsegrad.data.encodings import TokenEncoding


class WordsDataModule(LoadedDataModule):
    """Sentences with a label for each word, from a hub, a local folder or local files; for `TokenClassification`.

    Files that end in `.conllu` are of Universal Dependencies: their columns are `words`, `lemmas`, `upos` and `xpos`.
    Files that end in `.conll` have a word at the start of each line and its label at the end, read as the columns
    `words` and `tags`. Batches are those of `TokenEncoding`.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`.
        words_column: The column of the words, lists of texts.
        tags_column: The column of their labels, lists of the same lengths. The split to predict needs none.
        label_names: The names of the labels in the order of their ids; by default read from the train split.
        **kwargs: Arguments of `LoadedDataModule` and `TokenizedDataModule`: `dataset_config`, `revision`, `data_files`,
            `splits`, `validation_fraction`, `split_seed` and `train_language`; `tokenizer`, `max_length`, `batch_size`,
            `eval_batch_size`, `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If an argument is wrong, as far as can be checked without loading the data; errors in the
            data are raised when they are loaded.

    Example:
        >>> data = WordsDataModule("treebanks", tags_column="upos", label_names=["NOUN", "VERB"])
        >>> data.encoding.tags_column
        'upos'
    """

    encoding: TokenEncoding

    def __init__(
        self,
        dataset: str | None = None,
        *,
        words_column: str = "words",
        tags_column: str = "tags",
        label_names: Sequence[str | int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, encoding=TokenEncoding(words_column, tags_column, label_names), **kwargs)
