"""Checks shared by the data modules."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lightning_sparsegrad.errors import MAX_SEED, ConfigurationError, near_matches
from lightning_sparsegrad.metrics._evaluation_table import MEANS

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 20  # columns


def require_at_least(least: int, **values: int) -> None:
    """Check that each parameter is at least `least`.

    Raises:
        ConfigurationError: If one is less, or `None`, which jsonargparse lets through.
    """
    for name, value in values.items():
        if value is None or value < least:
            raise ConfigurationError(f"Parameter `{name}` should be at least {least}. Found `{name} = {value}`.")


def require_at_most(most: int, **values: int) -> None:
    """Check that each parameter is at most `most`.

    Raises:
        ConfigurationError: If one is more.
    """
    for name, value in values.items():
        if value > most:
            raise ConfigurationError(f"Parameter `{name}` should be at most {most}. Found `{name} = {value}`.")


def require_seed(**values: int) -> None:
    """Check that each parameter is a seed that every generator accepts.

    Raises:
        ConfigurationError: If one is negative, too large, or `None`.
    """
    require_at_least(0, **values)
    require_at_most(MAX_SEED, **values)


def most_workers() -> int:
    """Return the largest number of worker processes allowed on this machine, 64 per core."""
    return 64 * (os.cpu_count() or 1)


def require_columns(rows: Dataset, columns: dict[str, str], split: str) -> None:
    """Check that the rows have the columns that parameters name.

    Args:
        rows: The rows.
        columns: Column to the name of its parameter.
        split: The split of the rows.

    Raises:
        ConfigurationError: If a column is missing.
    """
    shown = rows.column_names[:_SHOWN]
    more = f" and {len(rows.column_names) - _SHOWN} more" if len(rows.column_names) > _SHOWN else ""
    for column, parameter in columns.items():
        if column not in rows.column_names:
            raise ConfigurationError(
                f"Parameter `{parameter}` should name a column of the data. Found `{column}`, but the columns of "
                f"split `{split}` are {listed(shown)}{more}.{near_matches(column, rows.column_names)}"
            )


def require_no_mean(parts: Iterable[str | None]) -> None:
    """Check that no part of the data has the name of a mean over the parts.

    Raises:
        ConfigurationError: If one is.
    """
    for part in parts:
        if part in MEANS:
            raise ConfigurationError(
                f"Parts of the data should not be named {listed(MEANS)}: these are the means over them. Found `{part}`."
            )


def require_file_names(parts: Iterable[str | None]) -> None:
    """Check that the names of the parts of the data can be file names.

    Raises:
        ConfigurationError: If a name would lead to another folder.
    """
    for part in parts:
        if any(character in (part or "") for character in "/\\\0"):
            raise ConfigurationError(
                f"Parts of the data should have names without slashes: files are named after them. Found `{part}`."
            )


def listed(names: Iterable[str]) -> str:
    """Return names as a list in a sentence."""
    return ", ".join(f"`{name}`" for name in names) or "none"
