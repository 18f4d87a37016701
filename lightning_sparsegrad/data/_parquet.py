"""Parquet files, read by literal paths, which `datasets` would take for patterns or chains of URLs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.data._checks import listed
from lightning_sparsegrad.data._lines import digests_of

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 10_000  # rows read at once


def load_parquet(paths: Sequence[str]) -> Dataset:
    """Return the rows of parquet files that have the same columns, with the types of the first.

    Raises:
        ValueError: If the columns of two files differ, or a file is not parquet.
    """
    from datasets import Features

    from lightning_sparsegrad.data._datasets import dataset_of_tables  # imports `datasets`

    first, *others = (_schema(path) for path in paths)
    for path, schema in zip(paths[1:], others, strict=True):  # a cast would fill a missing column with nulls
        if set(schema.names) != set(first.names):
            raise ValueError(
                f"{Path(path).name}: the columns should be those of {Path(paths[0]).name}, {listed(first.names)}. "
                f"Found {listed(schema.names)}"
            )
    facts = {"paths": tuple(paths), "contents": digests_of(paths)}
    return dataset_of_tables(_tables, Features.from_arrow_schema(first), facts)


def _schema(path: str) -> Any:
    from pyarrow.parquet import read_schema  # type: ignore[import-untyped]  # ships no types

    with Path(path).open("rb") as file:  # pyarrow would read some names as URLs
        return read_schema(file)


def _tables(paths: Sequence[str], contents: Sequence[str]) -> Iterator[Any]:  # noqa: ARG001
    import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
    from pyarrow.parquet import ParquetFile

    for path in paths:
        with Path(path).open("rb") as file:
            for batch in ParquetFile(file).iter_batches(batch_size=_BATCH):
                yield pa.Table.from_batches([batch])
