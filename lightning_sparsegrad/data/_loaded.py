"""The base of data modules with rows from a hub, a local folder or local files."""

from abc import ABC
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_sparsegrad.data._checks import listed, require_seed
from lightning_sparsegrad.data._origins import (
    are_missing,
    load_dataset,
    open_files,
    resolve_files,
    resolve_folder,
    tell_of_repeated,
)
from lightning_sparsegrad.data._splits import Splits
from lightning_sparsegrad.data.base import SPLITS, TokenizedDataModule
from lightning_sparsegrad.data.encodings import Encoding, kind_of
from lightning_sparsegrad.errors import ConfigurationError, near_matches

if TYPE_CHECKING:
    from datasets import Dataset


class LoadedDataModule(TokenizedDataModule, ABC):
    """Abstract data module of rows from a hub, a local folder or local files.

    Args:
        dataset: The hub id, or the local folder, of a data set; or give `data_files`. A folder may have csv, tsv, json,
            jsonl, parquet, conll or conllu files named after their splits: `train.jsonl`, `validation.de.jsonl`,
            `validation.fr.jsonl`, `test.de.jsonl`. The word between the dots is a part, such as a language. Quotation
            marks enclose fields of a csv file, but belong to the fields of a tsv file.
        encoding: The encoding of its rows.
        dataset_config: The configuration of the data set, if it has several (`"cola"` of `"nyu-mll/glue"`).
        revision: The branch, tag or commit on the hub.
        data_files: Local files by split: `{"train": "a.csv", "validation": "b.csv"}`; `"validation.de"` is a part of a
            split. Several files of a split are read one after the other. A path is taken literally, not as a pattern:
            `train[1].csv` is the file of that name. Only a leading `~` is expanded to the home folder.
            `package:<distribution>/<path>` names a file inside an installed distribution. A file is read when its split
            is used, so that a checkpoint can predict without the file that it was trained on.
        splits: The name in the data of each of `train`, `validation`, `test` and `predict` (or a part of one). By
            default these names themselves; without a split to predict, `test` is predicted.
        validation_fraction: Fraction of the train split to set aside for validation, strictly between 0 and 1, if there
            is no validation split. The rows are drawn with `split_seed`, not with `seed`, so that runs with different
            seeds are compared on the same rows, and a resumed run never validates on rows that it was trained on.
        split_seed: The seed of that draw, from 0 to 2^32 - 1.
        train_language: The part in the language of the train split, which `val/<metric>/mean_unseen` leaves out. If
            there is no such part, a warning is given.
        **kwargs: Arguments of `TokenizedDataModule`.

    Raises:
        ConfigurationError: If an argument is wrong, as far as can be checked without loading the data; errors in the
            data are raised when they are loaded.
    """

    def __init__(
        self,
        dataset: str | None = None,
        *,
        encoding: Encoding,
        dataset_config: str | None = None,
        revision: str | None = None,
        data_files: Mapping[str, str | list[str]] | None = None,
        splits: Mapping[str, str] | None = None,
        validation_fraction: float | None = None,
        split_seed: int = 0,
        train_language: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoding=encoding, **kwargs)
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
        require_seed(split_seed=split_seed)
        parameter, keys = ("splits", splits) if splits is not None else ("data_files", data_files)
        for name in keys or {}:
            if not isinstance(name, str) or kind_of(name) not in SPLITS:
                raise ConfigurationError(
                    f"The keys of `{parameter}` should be among {listed(SPLITS)}, or parts of them such as "
                    f"`validation.de`. Found `{name}`.{near_matches(str(name), SPLITS)}"
                )
        if not keys and parameter == "splits":
            raise ConfigurationError("Parameter `splits` should name a split of the data. Found `splits = {}`.")
        self._dataset = resolve_folder(dataset, revision) if dataset else None
        self._dataset_config = dataset_config
        self._revision = revision
        present = {split: names for split, names in (data_files or {}).items() if not are_missing(names)}
        self._data_files = {**(data_files or {}), **resolve_files(present or data_files or {})}
        tell_of_repeated(self._data_files)
        self._splits = splits
        self._validation_fraction = validation_fraction
        self._split_seed = split_seed
        self._undivided: Mapping[str, Dataset] | None = None  # before rows of train are set aside
        self.train_language = train_language

    @override
    def load_splits(self) -> "Mapping[str, Dataset]":
        """Return the rows by split, under the names of `SPLITS`; files are read on first access.

        Raises:
            ConfigurationError: If the data cannot be loaded.
        """
        if self._dataset is not None:
            stored = load_dataset(self._dataset, self._dataset_config, self._revision, self.encoding.reads)
        else:
            stored = open_files(self._data_files, self.encoding.reads)
        names = self._names_of_splits(stored)
        rows = Splits({split: partial(_named, stored, split, name) for split, name in names.items()})
        self._look_for_train_language(rows)
        if self._validation_fraction is None or "train" not in rows:
            return rows
        if any(kind_of(name) == "validation" for name in rows):
            raise ConfigurationError(
                f"Parameter `validation_fraction` should be left out unless the data have a train split and no "
                f"validation split. Found splits {listed(rows)}; select those to use with `splits`."
            )
        self._undivided = rows
        shares = {"train": partial(self._share, rows, "train"), "validation": partial(self._share, rows, "test")}
        return Splits({**rows.data, **shares})

    @override
    def rows_of_classes(self, split: str) -> "Dataset":
        rows = self.rows(split)
        return rows if self._undivided is None else self._undivided[split]

    @override
    def is_missing(self, split: str) -> bool:
        """Return whether there is no such split, or its files do not exist."""
        files = self._data_files.get((self._splits or {}).get(split, split))
        return super().is_missing(split) or (files is not None and are_missing(files))

    def _share(self, rows: "Mapping[str, Dataset]", side: str) -> "Dataset":
        """Return one side of the divided train split, with the same rows every time."""
        try:
            parts = rows["train"].train_test_split(self._validation_fraction, seed=self._split_seed)
        except ValueError as error:
            raise ConfigurationError(
                f"Parameter `validation_fraction` should leave rows on both sides. Found `validation_fraction = "
                f"{self._validation_fraction}` of {len(rows['train'])} rows."
            ) from error
        return parts[side]

    def _look_for_train_language(self, splits: Iterable[str]) -> None:
        """Warn if no part is in the training language, which may be misspelt or have no rows for evaluation."""
        evaluated = [split for split in splits if kind_of(split) in ("validation", "test")]
        parts = sorted({part for split in evaluated if (part := split.partition(".")[2])})
        if self.train_language and parts and self.train_language not in parts:
            rank_zero_warn(
                f"No part of the data is named after `train_language = {self.train_language!r}`, so that "
                f"`mean_unseen` is the mean over all of them: {listed(parts)}."
                f"{near_matches(self.train_language, parts)}"
            )

    def _names_of_splits(self, stored: "Mapping[str, Dataset]") -> Mapping[str, str]:
        if self._splits is not None:
            return self._splits
        names = {split: split for split in stored if kind_of(split) in SPLITS}
        tests = {name: name for name in names if kind_of(name) == "test"}
        predicted = {name.replace("test", "predict", 1): name for name in tests}
        return {**({} if any(kind_of(name) == "predict" for name in names) else predicted), **names}


def _named(stored: "Mapping[str, Dataset]", split: str, name: str) -> "Dataset":
    if name not in stored:
        raise ConfigurationError(
            f"Parameter `splits` should name splits of the data. Found `splits.{split} = {name!r}`, but the "
            f"splits are {listed(stored)}.{near_matches(name, stored)}"
        )
    return stored[name]
