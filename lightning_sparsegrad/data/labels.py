"""The label column of a classification or regression data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from datasets import ClassLabel, Dataset, Value

from lightning_sparsegrad.errors import ConfigurationError, near_matches

_LARGEST_TARGET = 1e18  # float32 holds its square, which is the loss
_TEXT = ("string", "large_string")


@dataclass(frozen=True)
class LabelSpace:
    """What the labels of a data set may be: the classes 0 to n-1, or real numbers.

    A `ClassLabel` column is read by its names where they stand in another order than these, so that a class is the
    same in each split; where one of both has no names but ids, by id.

    Args:
        column: The column that holds the labels.
        names: A name for each class, in the order of the ids; empty for regression.
        by_name: Whether the column holds the names themselves, and not the ids.
    """

    column: str
    names: tuple[str, ...] = ()
    by_name: bool = False

    @property
    def num_labels(self) -> int:
        """The number of outputs a model needs: the number of classes, or 1 for regression."""
        return len(self.names) or 1

    @classmethod
    def infer(cls, rows: Dataset, column: str, names: Sequence[str] | None = None) -> Self:
        """Read the label space off the rows of the train split.

        Text names a class, in sorted order; an integer or a boolean is the id of one; a float is a regression target.

        Args:
            rows: The rows to learn the classes from.
            column: The column that holds the labels.
            names: The names of all classes if they are known, in the order of the ids.

        Raises:
            ConfigurationError: If there are fewer than two classes, integers are not 0 to n-1, floats meet `names`, or
                those of a `ClassLabel` are others or in another order.
        """
        feature = rows.features[column]
        dtype = feature.dtype if isinstance(feature, (ClassLabel, Value)) else str(feature)
        if isinstance(feature, ClassLabel):
            _check_names(column, feature.names, names)
            space = cls(column, tuple(names or feature.names))
        elif dtype in _TEXT:
            space = cls(column, tuple(names or _names_of_text(rows, column)), by_name=True)
        elif dtype.startswith(("int", "uint", "bool")):
            space = cls(column, tuple(names or _names_of_ids(rows, column)))
        elif dtype.startswith("float") and not names:
            return cls(column)
        else:
            allowed = "integers or text, as `label_names` says," if names else "integers, text or floats"
            raise ConfigurationError(f"Labels in column `{column}` should be {allowed}. Found `{dtype}`.")
        if space.num_labels < 2:
            raise ConfigurationError(
                f"Labels in column `{column}` should be of two classes or more. Found {_quoted(space.names)}."
            )
        return space

    @classmethod
    def trained(cls, rows: Dataset, column: str, names: Sequence[str]) -> Self:
        """Return the label space that a model was trained on, for a column that may lack some of the classes.

        Args:
            rows: The rows to label.
            column: The column that holds the labels.
            names: The names of all classes in the order of the ids; empty for regression.

        Raises:
            ConfigurationError: If the names of a `ClassLabel` are others or in another order.
        """
        feature = rows.features[column]
        if isinstance(feature, ClassLabel):
            _check_names(column, feature.names, names)
        # names read from a train split are its values as text, be they numbers; given names may stand for ids
        by_name = getattr(feature, "dtype", None) in _TEXT or all(str(v) in names for v in _distinct(rows, column))
        return cls(column, tuple(names), by_name=by_name)

    def encode(self, rows: Dataset, split: str) -> Dataset:
        """Check every label of a split and return the rows with the column `labels` instead: ids, or floats.

        Raises:
            ConfigurationError: If a label is missing, unknown, out of range, or not finite.
        """
        feature = rows.features[self.column]
        if self._is_read_by_name(feature):
            ids = self.ids(feature, _distinct(rows, self.column), split)
            found, classes = [ids[value] for value in rows[self.column][:]], ClassLabel(names=list(self.names))
            return rows.remove_columns(self.column).add_column("labels", found, feature=classes)
        if self.by_name and feature.dtype not in _TEXT:  # names that look like numbers, in a file of such names only
            rows = rows.cast_column(self.column, Value("string"))
        elif feature.dtype == "bool":
            rows = rows.cast_column(self.column, Value("int64"))
        self._check(_distinct(rows, self.column), split, by_name=self.by_name)
        rows = rows.cast_column(self.column, ClassLabel(names=list(self.names)) if self.names else Value("float32"))
        return rows if self.column == "labels" else rows.rename_column(self.column, "labels")

    def ids(self, feature: ClassLabel | Value, values: list[Any], split: str) -> dict[Any, int]:
        """Check the different labels of a split and return the id of each.

        Raises:
            ConfigurationError: If a label is missing, unknown or out of range.
        """
        names = {value: value for value in values}
        if self._is_read_by_name(feature):
            names |= {place: name for place, name in enumerate(feature.names) if place in names}
        by_name = self.by_name or self._is_read_by_name(feature)
        self._check(list(names.values()), split, by_name=by_name)
        return {value: self.names.index(name) if by_name else name for value, name in names.items()}

    def _is_read_by_name(self, feature: Any) -> bool:
        """Return whether the ids of a column mean other classes than they do here."""
        if not isinstance(feature, ClassLabel):
            return False
        has_other = tuple(feature.names) != self.names and not (are_ids(feature.names) or are_ids(self.names))
        return self.by_name or has_other

    def _check(self, values: list[Any], split: str, *, by_name: bool) -> None:
        if not self.names:
            wrong = [v for v in values if not isinstance(v, int | float) or not abs(v) <= _LARGEST_TARGET]
            allowed = f"finite numbers between -{_LARGEST_TARGET:g} and {_LARGEST_TARGET:g}"
        elif by_name:
            wrong = [v for v in values if v not in self.names]
            allowed = f"among {_quoted(self.names)}"
        else:
            wrong = [v for v in values if not isinstance(v, int) or not 0 <= v < len(self.names)]
            allowed = f"integers from 0 to {len(self.names) - 1}"
        if not wrong:
            return
        hint = ""
        if wrong == [-1]:
            hint = " -1 marks labels that were not published: use this split as `predict`."
        elif by_name:
            hint = near_matches(str(wrong[0]), self.names) if wrong[0] else ""
            hint += " `label_names` lists the classes; by default they are those of the train split or the checkpoint."
        raise ConfigurationError(
            f"Labels in column `{self.column}` of split `{split}` should be {allowed}. Found {_quoted(wrong)}.{hint}"
        )


def _distinct(rows: Dataset, column: str) -> list[Any]:
    try:
        return list(dict.fromkeys(rows[column]))  # `rows.unique` would copy rows that were selected from a larger set
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"Labels in column `{column}` should be text in UTF-8. Found: {error}.") from error


def _names_of_text(rows: Dataset, column: str) -> list[str]:
    """Return the sorted texts after checking that they are not numbers with a few holes, which csv reads as text."""
    values = _distinct(rows, column)
    odd = [value for value in values if not _is_finite(value)]
    if odd and 2 * len(odd) <= len(values):
        raise ConfigurationError(
            f"Labels in column `{column}` should all be numbers, or all be names, unless `label_names` lists the "
            f"classes. Found {_quoted(odd)} among numbers."
        )
    return sorted(value for value in values if value)  # a row without a label is reported when it is encoded


def are_ids(names: Sequence[str]) -> bool:
    """Return whether names are those of classes that have no names: 0 to n-1."""
    return list(names) == [str(place) for place in range(len(names))]


def _check_names(column: str, found: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Check that the names of a `ClassLabel` are known, and, if all of the known ones, in the order of the ids."""
    if wanted is None or list(wanted) == list(found) or (wanted and are_ids(found)):
        return
    if set(wanted) == set(found) or not set(found) <= set(wanted):
        raise ConfigurationError(
            f"Labels in column `{column}` should be, in the order of their ids, {_quoted(list(wanted))}. "
            f"Found {_quoted(found)}."
        )


def _is_finite(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False


def _names_of_ids(rows: Dataset, column: str) -> list[str]:
    """Return the ids 0 to n-1 as text after checking that each has an example."""
    ids = sorted(int(value) for value in _distinct(rows, column) if value is not None)
    if ids != list(range(len(ids))):
        raise ConfigurationError(
            f"Labels in column `{column}` should be the integers 0 to n-1, each at least once, unless `label_names` "
            f"lists the classes. Found {_quoted(ids)}."
        )
    return [str(value) for value in ids]


def _quoted(values: Sequence[Any], limit: int = 10) -> str:
    shown = ", ".join(f"`{value!r}`" for value in values[:limit])
    return f"{shown} and {len(values) - limit} more" if len(values) > limit else shown or "none"
