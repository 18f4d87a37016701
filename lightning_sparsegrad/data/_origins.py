"""Rows from a hub, a local folder or local files, loaded through `datasets`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_sparsegrad.data._checks import listed
from lightning_sparsegrad.data._conll import SHARED_TASKS, UNIVERSAL_DEPENDENCIES, load_conll
from lightning_sparsegrad.data._delimited import SEPARATORS, load_table
from lightning_sparsegrad.data._folders import find_splits, require_plain
from lightning_sparsegrad.data._parquet import load_parquet
from lightning_sparsegrad.data._reads import Reads
from lightning_sparsegrad.data._records import load_records
from lightning_sparsegrad.data._splits import Splits
from lightning_sparsegrad.data._squad import is_squad, load_squad
from lightning_sparsegrad.data.encodings import kind_of
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._writing import full_disk
from lightning_sparsegrad.hub._datasets import without_network
from lightning_sparsegrad.hub._names import PACKAGE_PREFIX, resolve_source
from lightning_sparsegrad.hub._network import how_without, is_unreachable

if TYPE_CHECKING:
    from datasets import Dataset

_RECORDS = (".json", ".jsonl")
_PARQUET = ".parquet"
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_CONLL = (SHARED_TASKS, UNIVERSAL_DEPENDENCIES)
_EXTENSIONS = (*SEPARATORS, *_RECORDS, _PARQUET, *_CONLL)
# `validation.de.jsonl`, `train-00000-of-00002.parquet`, `validation_matched-00000-of-00001.parquet`
_FILE_OF_SPLIT = re.compile(
    r"(?P<split>train|(?:validation|test|predict)(?:\.[\w-]+?|_(?:mis)?matched)?)(?:-\d+-of-\d+)?\.\w+"
)


def resolve_files(data_files: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    """Check the data files of each split and return their local paths.

    Args:
        data_files: One or more paths for each split; `package:<distribution>/<path>` names a file of an installed
            distribution.

    Raises:
        ConfigurationError: If a file is missing or empty, or its extension is unknown or differs within a split.
    """
    resolved: dict[str, list[str]] = {}
    for split, names in data_files.items():
        paths = [Path(resolve_source(name)) for name in ([names] if isinstance(names, str) else names)]
        if not paths:
            raise ConfigurationError(f"Parameter `data_files` should name a file for split `{split}`. Found none.")
        for path in paths:
            finding = f"Found `data_files.{split} = {str(path)!r}`"
            if path.suffix not in _EXTENSIONS:
                raise ConfigurationError(f"Data files should end in {', '.join(_EXTENSIONS)}. {finding}.")
            if path.suffix != paths[0].suffix:
                raise ConfigurationError(
                    f"Data files of one split should have the same extension. {finding} after `{paths[0].name}`."
                )
            if not _is_file(path):
                raise ConfigurationError(f"Data files should exist. {finding}.")
            if path.stat().st_size == 0:
                raise ConfigurationError(f"Data files should not be empty. {finding}.")
        resolved[split] = [str(path.absolute()) for path in paths]
    return resolved


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def are_missing(names: str | Sequence[str]) -> bool:
    """Return whether one of the data files of a split does not exist."""
    paths = [resolve_source(name) for name in ([names] if isinstance(names, str) else names)]
    return not all(_is_file(Path(path)) for path in paths)


def tell_of_repeated(data_files: Mapping[str, str | Sequence[str]]) -> None:
    """Report files that are read twice: warn if a split names one twice, log if training and evaluation share one."""
    paths = {split: [names] if isinstance(names, str) else list(names) for split, names in data_files.items()}
    for split, names in paths.items():
        if twice := sorted({name for name in names if names.count(name) > 1}):
            rank_zero_warn(f"The rows of {listed(twice)} occur more than once in `data_files.{split}`.")
    for split, names in paths.items():
        if kind_of(split) in ("validation", "test") and (same := sorted({*names} & {*paths.get("train", ())})):
            rank_zero_info(f"Split `{split}` measures memorization: {listed(same)} is also trained on.")


def open_files(data_files: Mapping[str, str | Sequence[str]], reads: Reads | None = None) -> Splits:
    """Return the rows of each split; its files are checked by `resolve_files` and read on first access."""
    return Splits({split: partial(_load_split, split, names, reads) for split, names in data_files.items()})


def _load_split(split: str, names: str | Sequence[str], reads: Reads | None) -> Dataset:
    return load_files(resolve_files({split: names}), reads)[split]


def load_files(data_files: Mapping[str, Sequence[str]], reads: Reads | None = None) -> dict[str, Dataset]:
    """Return the rows of each split, read from files that `resolve_files` has checked.

    Splits are read separately, since their columns may differ: those to predict need no labels.

    Args:
        data_files: The files of each split.
        reads: The columns to read.

    Raises:
        ConfigurationError: If a file cannot be parsed, or its rows do not have the same columns.
    """
    import datasets

    reads = reads or Reads()
    rows = {}
    for split, paths in data_files.items():
        suffix = Path(paths[0]).suffix
        kind = split.partition(".")[0]
        try:
            rows[split] = _load(paths, suffix, reads if kind != "predict" else replace(reads, labels=()))
        except Exception as error:
            if full := full_disk(error, str(datasets.config.HF_DATASETS_CACHE)):
                raise full from error
            raise ConfigurationError(
                f"Data files should be readable as {_FORMATS.get(suffix, suffix)}. "
                f"Found `data_files.{split} = {', '.join(paths)}`: {_cause(error)}"
            ) from error
    return rows


def _load(paths: Sequence[str], suffix: str, reads: Reads) -> Dataset:
    if suffix in _CONLL:
        return load_conll(paths)
    if suffix in SEPARATORS:
        return load_table(paths, reads)
    if suffix == ".json" and is_squad(paths[0]):
        return load_squad(paths)
    if suffix in _RECORDS:
        return load_records(paths, reads)
    return load_parquet(paths)


def load_dataset(
    name: str, config: str | None = None, revision: str | None = None, reads: Reads | None = None
) -> Mapping[str, Dataset]:
    """Return the rows of each split of a hub data set, or of a local folder of data files.

    Args:
        name: A hub id, or a local folder of files named after their splits (`train.csv`, `validation.de.csv`,
            `test-00000-of-00002.parquet`) or of anything else that `datasets` loads.
        config: The configuration of the data set, if it has several; for a local folder, the folder inside it.
        revision: The branch, tag or commit on the hub.
        reads: The columns to read.

    Raises:
        ConfigurationError: If the data set does not exist, or the hub cannot be reached and it is not cached.
    """
    import datasets

    if Path(name).is_dir() and (by_split := _files_of_splits(Path(name, config or ""))):
        return open_files(by_split, reads)
    files: dict[str, list[str]] = {}
    try:
        if Path(name).is_dir():
            with without_network():
                files = _files_of_folder(Path(name), config)
                if not files:
                    require_plain(Path(name))
                    return dict(datasets.load_dataset(name, config))
        else:
            with without_network() if is_unreachable(name, "dataset") else nullcontext():
                return dict(datasets.load_dataset(name, config, revision=revision))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"Parameter `dataset` should be a local folder of data files or the id of a data set on a reachable hub. "
            f"Found `dataset = {name!r}`, `dataset_config = {config!r}`: {_cause(error)}"
            f"{how_without(name, 'dataset')}"
        ) from error
    return load_files(files, reads)


def _files_of_folder(folder: Path, config: str | None) -> dict[str, list[str]]:
    """Return the files of a folder by the split that `datasets` derives from their names.

    `datasets` would read tables by other rules than `load_files`. If a README has settings for them, nothing is
    returned, and `datasets` reads the folder itself.
    """
    readme = folder / "README.md"
    if readme.is_file() and any(f"{key}:" in readme.read_text("utf-8") for key in ("configs", "dataset_info")):
        return {}
    files = find_splits(folder, config)
    suffixes = {split: {Path(path).suffix for path in paths} for split, paths in files.items()}
    are_ours = all(len(kinds) == 1 and kinds <= {*SEPARATORS, *_RECORDS, _PARQUET} for kinds in suffixes.values())
    return files if are_ours and all(Path(path).is_file() for paths in files.values() for path in paths) else {}


def _files_of_splits(folder: Path) -> dict[str, list[str]]:
    """Return the files of a folder by the split in their names; empty if `datasets` has to derive the splits.

    Raises:
        ConfigurationError: If another file has a part in its name but no split: `datasets` would merge the parts.
    """
    by_split: dict[str, list[str]] = defaultdict(list)
    others: list[str] = []
    for path in sorted(folder.glob("*")):
        if path.suffix in _EXTENSIONS:
            match = _FILE_OF_SPLIT.fullmatch(path.name)
            (by_split[match["split"]] if match else others).append(str(path))
    odd = [Path(name).name for name in others if "." in Path(name).stem]
    if by_split and odd:
        raise ConfigurationError(
            f"Files of a folder should be named after their splits: `train.csv`, `validation.de.csv`, `test.de.csv`, "
            f"`predict.de.csv`. Found {listed(odd)} in `{folder}`."
        )
    has_parts = any("." in split for split in by_split)
    return dict(by_split) if has_parts or not others else {}


def resolve_folder(name: str, revision: str | None = None) -> str:
    """Return the hub id or the path of the local folder, after checks that need no network.

    Raises:
        ConfigurationError: If `name` is a path but not a folder, or a local folder is given with a `revision`.
    """
    path = Path(resolve_source(name))
    if path.is_dir():
        if revision is not None:
            raise ConfigurationError(
                f"Parameter `revision` should be left out for a local folder. Found `revision = {revision!r}`."
            )
        return str(path.absolute())
    if path.is_file():
        raise ConfigurationError(
            f"Parameter `dataset` should be a hub id or a folder; give files as `data_files`. "
            f"Found `dataset = {name!r}`."
        )
    if name.startswith((".", "/", "~", PACKAGE_PREFIX)):
        raise ConfigurationError(f"Parameter `dataset` should be an existing folder. Found `dataset = {name!r}`.")
    return name


def _cause(error: BaseException) -> str:
    """Return the innermost error as one sentence; for an error of another library, its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error) or type(error).__name__
    line = " ".join(text.split("\n")) if type(error) is ValueError else text.splitlines()[0]  # ours name files
    return f"{line.rstrip('.')}."
