"""Folders of data files whose splits `datasets` derives from their names."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_sparsegrad.errors import ConfigurationError

_SPECIAL = re.compile(r"[*?\[$\n]|::|://")  # patterns, variables and chains of URLs


def find_splits(folder: Path, config: str | None) -> dict[str, list[str]]:
    """Return the files of a folder by the split that `datasets` derives from their names.

    Args:
        folder: The folder. `datasets` reads its path as a pattern, so that it may get links in another folder instead.
        config: The folder inside it.
    """
    import datasets

    with _links(folder) if _SPECIAL.search(str(folder.resolve())) else _itself(folder) as (shown, originals):
        by_split = datasets.load_dataset_builder(str(shown), config).config.data_files or {}
        files = {str(split): [Path(path) for path in paths] for split, paths in by_split.items()}
    return {split: [originals.get(str(path), str(path)) for path in paths] for split, paths in files.items()}


def require_plain(folder: Path) -> None:
    """Check that `datasets` reads the path of a folder literally.

    Raises:
        ConfigurationError: If the path has a character with a special meaning.
    """
    if special := _SPECIAL.search(str(folder.resolve())):
        raise ConfigurationError(
            f"Parameter `dataset` should be a folder without {special[0]!r} in its path, which `datasets` reads as a "
            f"pattern, or a folder of csv, tsv, json, jsonl or parquet files without settings in a README. "
            f"Found `dataset = {str(folder)!r}`."
        )


@contextmanager
def _itself(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    yield folder, {}


@contextmanager
def _links(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a folder of links to the files of another, and yield it with a mapping from links to files."""
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
