"""Text of any origin: a hub, a local folder, or local files."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from lightning_sparsegrad.data.base import SPLITS
from lightning_sparsegrad.data.checks import listed
from lightning_sparsegrad.data.loading import load_dataset, load_files, resolve_files, resolve_folder
from lightning_sparsegrad.data.sequence import SequenceDataModule
from lightning_sparsegrad.errors import ConfigurationError, near_matches


class TextDataModule(SequenceDataModule):
    """Sentences or pairs of sentences with a label, from a hub, a local folder or local files.

    Labels that are text become ids in sorted order; integers are ids already, 0 to n-1; floats make a regression. In a
    csv file 1.5 is a float and 2 an integer, so a regression target that happens to be whole is written `2.0`.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`.
        dataset_config: The configuration of the data set, if it has several (`"cola"` of `"nyu-mll/glue"`).
        revision: The branch, tag or commit on the hub.
        data_files: Local csv, tsv, json, jsonl or parquet files by split: `{"train": "a.csv", "validation": "b.csv"}`.
            Several files of a split are read one after the other. `package:<distribution>/<path>` names a file inside
            an installed distribution.
        splits: The name that each of `train`, `validation`, `test` and `predict` has in the data. By default those that
            are called so, and `test` is the split to predict where no other is.
        text_columns: The column of the text, or the two columns of a pair.
        label_column: The column of the labels. The split to predict needs none.
        label_names: The names of the classes in the order of their ids; read from the train split by default.
        validation_fraction: Set this fraction of the train split aside for validation, strictly between 0 and 1, where
            the data has no validation split. The rows are drawn with `split_seed`, and not with `seed`: runs with
            different seeds are compared on the same rows, and a resumed run never validates on rows it was trained on.
        split_seed: The seed of that draw.
        **kwargs: What `TokenizedDataModule` takes: `tokenizer`, `max_length`, `batch_size`, `eval_batch_size`,
            `num_workers`, `pad_to_multiple_of`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If an argument cannot work as far as can be seen without loading anything; what the data
            shows is reported when it is loaded.

    Example:
        >>> data = TextDataModule("nyu-mll/glue", dataset_config="mrpc", text_columns=["sentence1", "sentence2"])
        >>> data.text_columns
        ['sentence1', 'sentence2']
    """

    def __init__(
        self,
        dataset: str | None = None,
        *,
        dataset_config: str | None = None,
        revision: str | None = None,
        data_files: Mapping[str, str | list[str]] | None = None,
        splits: Mapping[str, str] | None = None,
        text_columns: str | list[str] = "text",
        label_column: str = "label",
        label_names: list[str] | None = None,
        validation_fraction: float | None = None,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(text_columns=text_columns, label_column=label_column, label_names=label_names, **kwargs)
        if bool(dataset) == bool(data_files):
            raise ConfigurationError(
                f"One of the parameters `dataset` and `data_files` should be given. "
                f"Found `dataset = {dataset!r}`, `data_files = {data_files!r}`."
            )
        if data_files and (dataset_config or revision):
            raise ConfigurationError(
                f"Parameters `dataset_config` and `revision` should be left out beside `data_files`. "
                f"Found `dataset_config = {dataset_config!r}`, `revision = {revision!r}`."
            )
        if validation_fraction is not None and not 0 < validation_fraction < 1:
            raise ConfigurationError(
                f"Parameter `validation_fraction` should be strictly between 0 and 1. "
                f"Found `validation_fraction = {validation_fraction}`."
            )
        for name in splits or {}:
            if name not in SPLITS:
                raise ConfigurationError(
                    f"The keys of `splits` should be among {listed(SPLITS)}. Found `{name}`."
                    f"{near_matches(name, SPLITS)}"
                )
        self._dataset = resolve_folder(dataset, revision) if dataset else None
        self._dataset_config = dataset_config
        self._revision = revision
        self._data_files = resolve_files(data_files or {})
        self._splits = splits
        self._validation_fraction = validation_fraction
        self._split_seed = split_seed

    def load_splits(self) -> dict[str, Dataset]:
        """Return the rows by split, under the names of `SPLITS`.

        Raises:
            ConfigurationError: If the data cannot be loaded, or a split is not in it.
        """
        if self._dataset is not None:
            found = load_dataset(self._dataset, self._dataset_config, self._revision)
        else:
            found = load_files(self._data_files)
        rows = {split: found[name] for split, name in self._names_of_splits(found).items()}
        if self._validation_fraction is None:
            return rows
        if "validation" in rows or "train" not in rows:
            raise ConfigurationError(
                f"Parameter `validation_fraction` should be left out unless the data is a train split without a "
                f"validation split. Found splits {listed(rows)}; map those to use by `splits`."
            )
        try:
            parts = rows["train"].train_test_split(self._validation_fraction, seed=self._split_seed)
        except ValueError as error:
            raise ConfigurationError(
                f"Parameter `validation_fraction` should leave rows on both sides. Found `validation_fraction = "
                f"{self._validation_fraction}` of {len(rows['train'])} rows."
            ) from error
        return {**rows, "train": parts["train"], "validation": parts["test"]}

    def _names_of_splits(self, found: dict[str, Dataset]) -> Mapping[str, str]:
        if self._splits is None:
            names = {split: split for split in SPLITS if split in found}
            return {"predict": "test", **names} if "test" in names else names
        for split, name in self._splits.items():
            if name not in found:
                raise ConfigurationError(
                    f"Parameter `splits` should name splits of the data. Found `splits.{split} = {name!r}`, while the "
                    f"splits are {listed(found)}.{near_matches(name, found)}"
                )
        return self._splits
