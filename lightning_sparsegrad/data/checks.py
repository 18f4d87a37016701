"""Checks that the data modules share."""

from collections.abc import Iterable

from datasets import Dataset

from lightning_sparsegrad.errors import ConfigurationError, near_matches

_SHOWN = 20  # columns


def require_at_least(least: int, **values: int) -> None:
    """Check that each of the parameters is at least `least`.

    Raises:
        ConfigurationError: If one is less, or `None`, which jsonargparse lets through.
    """
    for name, value in values.items():
        if value is None or value < least:
            raise ConfigurationError(f"Parameter `{name}` should be at least {least}. Found `{name} = {value}`.")


def require_columns(rows: Dataset, columns: dict[str, str], split: str) -> None:
    """Check that the rows have the columns that the parameters name.

    Args:
        rows: The rows.
        columns: The parameter that names a column, by the column.
        split: Which rows they are.

    Raises:
        ConfigurationError: If a column is missing.
    """
    shown = rows.column_names[:_SHOWN]
    more = f" and {len(rows.column_names) - _SHOWN} more" if len(rows.column_names) > _SHOWN else ""
    for column, parameter in columns.items():
        if column not in rows.column_names:
            raise ConfigurationError(
                f"Parameter `{parameter}` should name a column of the data. Found `{column}`, while the columns of "
                f"split `{split}` are {listed(shown)}{more}.{near_matches(column, rows.column_names)}"
            )


def listed(names: Iterable[str]) -> str:
    """Return the names as a part of a sentence."""
    return ", ".join(f"`{name}`" for name in names) or "none"
