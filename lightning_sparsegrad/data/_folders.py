"""Folders of data files whose names `datasets` has to find the splits of, wherever the folders are."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_sparsegrad.errors import ConfigurationError

_SPECIAL = re.compile(r"[*?\[$\n]|::|://")  # of patterns, variables and chains of URLs


def find_splits(folder: Path, config: str | None) -> dict[str, list[str]]:
    """Return the files of a folder by the split that `datasets` sees in their names.

    Args:
        folder: The folder. To `datasets` its path is a pattern: it is shown links to the files elsewhere if it has to.
        config: The folder inside it.
    """
    import datasets

    with _links(folder) if _SPECIAL.search(str(folder.resolve())) else _itself(folder) as (shown, originals):
        found = datasets.load_dataset_builder(str(shown), config).config.data_files or {}
        files = {str(split): [Path(path) for path in paths] for split, paths in found.items()}
    return {split: [originals.get(str(path), str(path)) for path in paths] for split, paths in files.items()}


def require_plain(folder: Path) -> None:
    """Check that `datasets` reads a folder as it is named.

    Raises:
        ConfigurationError: If a character of its path means something to it.
    """
    if found := _SPECIAL.search(str(folder.resolve())):
        raise ConfigurationError(
            f"Parameter `dataset` should be a folder without {found[0]!r} in its path, which `datasets` takes for a "
            f"pattern, or one of csv, tsv, json, jsonl or parquet files without settings in a README. "
            f"Found `dataset = {str(folder)!r}`."
        )


@contextmanager
def _itself(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    yield folder, {}


@contextmanager
def _links(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a folder of links to the files of another, and yield it with what each of them stands for."""
    with TemporaryDirectory() as name:
        shown = Path(name).resolve()
        require_plain(shown)
        originals: dict[str, str] = {}
        for path in folder.rglob("*"):
            link = shown / path.relative_to(folder)
            if path.is_file():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.absolute())
                originals[str(link)] = str(path)
        yield shown, originals
