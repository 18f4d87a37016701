"""Checks that the data modules share."""

from collections.abc import Iterable

from datasets import Dataset

from lightning_sparsegrad.errors import ConfigurationError, near_matches


def require_at_least(least: int, **values: int | None) -> None:
    """Check that each of the parameters is `None` or at least `least`.

    Raises:
        ConfigurationError: If one is less.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigurationError(f"Parameter `{name}` should be at least {least}. Found `{name} = {value}`.")


def require_columns(rows: Dataset, columns: dict[str, str]) -> None:
    """Check that the rows have the columns that the parameters name.

    Args:
        rows: The rows.
        columns: The parameter that names a column, by the column.

    Raises:
        ConfigurationError: If a column is missing.
    """
    for column, parameter in columns.items():
        if column not in rows.column_names:
            raise ConfigurationError(
                f"Parameter `{parameter}` should name a column of the data. Found `{column}`, while the columns are "
                f"{listed(rows.column_names)}.{near_matches(column, rows.column_names)}"
            )


def listed(names: Iterable[str]) -> str:
    """Return the names as a part of a sentence."""
    return ", ".join(f"`{name}`" for name in names) or "none"
