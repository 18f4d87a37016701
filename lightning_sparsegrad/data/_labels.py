"""The label column of a classification or regression data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from lightning.pytorch.utilities import rank_zero_info

from lightning_sparsegrad.data._classes import (
    are_ids,
    are_same,
    is_finite,
    kind_of_labels,
    names_of,
    plain,
    quoted,
    spelled,
)
from lightning_sparsegrad.errors import ConfigurationError, near_matches

if TYPE_CHECKING:
    from datasets import Dataset

Problem = Literal["classification", "regression"]

_LARGEST_TARGET = 1e18  # float32 holds its square, which is the loss


@dataclass(frozen=True)
class LabelSpace:
    """What the labels of a data set may be: classes, which have names, or real numbers.

    A label is that of a class if it is written as its name is. Integers are ids, 0 to n-1, unless one of the names is
    a number, and so are booleans unless one of the names is `True` or `False`. A `ClassLabel` column is read by its
    names where they stand in another order than these, so that a class is the same in each split; where one of both has
    no names but ids, by id.

    Args:
        column: The column that holds the labels.
        names: A name for each class, in the order of the ids; empty for regression.
        by_name: Whether the order of the names is made up, so that ids mean nothing.
    """

    column: str
    names: tuple[str, ...] = ()
    by_name: bool = False

    @property
    def num_labels(self) -> int:
        """The number of outputs a model needs: the number of classes, or 1 for regression."""
        return len(self.names) or 1

    @classmethod
    def infer(
        cls, rows: Dataset, column: str, names: Sequence[str] | None = None, problem: Problem | None = None
    ) -> Self:
        """Read the label space off the rows of the train split.

        Text names a class, in sorted order; so do integers, booleans and dates, in theirs; floats are regression
        targets unless `problem` says that they are classes. Decimals are integers if they have no places, else floats.

        Args:
            rows: The rows to learn the classes from.
            column: The column that holds the labels.
            names: The names of all classes if they are known, in the order of the ids.
            problem: What to learn, where the labels do not tell; by default they do.

        Raises:
            ConfigurationError: If there are fewer than two classes, labels are of another type, floats meet `names`
                that are no numbers, two names differ in what cannot be seen only, the names of a `ClassLabel` are
                others than `names` or in another order, or a regression meets names or dates.
        """
        from datasets import Value

        feature = rows.features[column]
        kind = kind_of_labels(feature)
        if kind == "number" and names and not all(map(is_finite, names)):
            kind = ""
        if problem == "regression" and kind in ("text", "whole", "bool", "number"):
            return cls(column)
        if kind == "number" and not names and problem is None:
            return cls(column)
        if not kind or problem == "regression":
            allowed = "integers or text, as `label_names` says," if names else "integers, text or floats"
            allowed = "numbers, as `problem` says," if problem == "regression" else allowed
            dtype = feature.dtype if isinstance(feature, Value) else str(feature)
            raise ConfigurationError(f"Labels in column `{column}` should be {allowed}. Found `{dtype}`.")
        if kind == "ids":
            _check_names(column, feature.names, names)
            space = cls(column, tuple(names or feature.names))
        else:
            found = names or names_of(_distinct(rows, column), kind, column, are_classes=problem is not None)
            space = cls(column, tuple(found), by_name=kind == "text")
        if space.num_labels < 2:
            raise ConfigurationError(
                f"Labels in column `{column}` should be of two classes or more. Found {quoted(space.names)}."
            )
        if kind == "whole" and not names and problem is None and not are_ids(space.names):
            rank_zero_info(
                f"Labels in column `{column}` are whole numbers, which are read as {space.num_labels} classes, "
                f"{quoted(space.names)}. For regression: `problem=regression`."
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
        from datasets import ClassLabel

        feature = rows.features[column]
        if isinstance(feature, ClassLabel):
            _check_names(column, feature.names, names)
        return cls(column, tuple(names), by_name=kind_of_labels(feature) == "text")

    def encode(self, rows: Dataset, split: str) -> Dataset:
        """Check every label of a split and return the rows with the column `labels` instead: ids, or floats.

        Raises:
            ConfigurationError: If a label is missing, unknown, out of range, or not finite.
        """
        from datasets import ClassLabel, Value

        feature, values = rows.features[self.column], _distinct(rows, self.column)
        if self.names:
            found: dict[Any, Any] = self.ids(feature, values, split)
            kind: Any = ClassLabel(names=list(self.names))
        else:
            found, kind = self._numbers(values, split), Value("float32")
        labels = [found[value] for value in rows[self.column][:]]
        return rows.remove_columns(self.column).add_column("labels", labels, feature=kind)

    def ids(self, feature: Any, values: list[Any], split: str) -> dict[Any, int]:
        """Check the different labels of a split and return the id of each.

        Raises:
            ConfigurationError: If a label is missing, unknown or out of range.
        """
        count = len(self.names)
        if not self._is_read_by_name(feature):
            shown = {value: value for value in values}
            ids = {value: int(value) for value in values if not isinstance(value, float) and value in range(count)}
            allowed = f"integers from 0 to {count - 1}"
        else:
            shown = {value: self._name(feature, value) for value in values}
            known = {name: place for place, name in enumerate(self.names)}
            ids = {value: known[name] for value, name in shown.items() if name in known}
            allowed = f"among {quoted(self.names)}"
        self._require_none_of([shown[value] for value in values if value not in ids], allowed, split)
        return ids

    def _name(self, feature: Any, value: Any) -> Any:
        from datasets import ClassLabel

        if isinstance(feature, ClassLabel):
            return feature.names[value] if value in range(len(feature.names)) else value
        if isinstance(value, bool):  # `true` in a file of JSON
            return next((name for name in self.names if name.casefold() == str(value).casefold()), str(value))
        return spelled(value) if spelled(value) in self.names else value

    def _is_read_by_name(self, feature: Any) -> bool:
        """Return whether labels are names, and no ids of the classes here."""
        kind = kind_of_labels(feature)
        if kind == "ids":
            return self.by_name or not are_same(feature.names, self.names)
        if kind in ("whole", "number"):
            return self.by_name or (any(map(is_finite, self.names)) and not are_ids(self.names))
        if kind == "bool":
            return self.by_name or any(name.casefold() in ("true", "false") for name in self.names)
        return True

    def _numbers(self, values: list[Any], split: str) -> dict[Any, float]:
        """Check the different targets of a split and return each as a float."""
        found = {}
        for value in values:
            is_number = is_finite(value) if isinstance(value, str) else value is not None
            if is_number and abs(float(value)) <= _LARGEST_TARGET:
                found[value] = float(value)
        allowed = f"finite numbers between -{_LARGEST_TARGET:g} and {_LARGEST_TARGET:g}"
        self._require_none_of([value for value in values if value not in found], allowed, split)
        return found

    def _require_none_of(self, wrong: list[Any], allowed: str, split: str) -> None:
        if not wrong:
            return
        hint = ""
        alike = [name for name in self.names if isinstance(wrong[0], str) and plain(name) == plain(wrong[0])]
        if wrong in ([-1], ["-1"]):
            hint = " -1 marks labels that were not published: use this split as `predict`."
        elif alike:
            hint = f" It differs from `{alike[0]}` in blanks or in the normal form of Unicode (NFC, NFD) only."
        elif wrong[0] and allowed.startswith("among"):
            hint = near_matches(str(wrong[0]), self.names)
        more = ", unless `label_names` lists more" if self.names and not hint.startswith(" -1") else ""
        raise ConfigurationError(
            f"Labels in column `{self.column}` of split `{split}` should be {allowed}{more}. "
            f"Found {quoted(wrong)}.{hint}"
        )


def _distinct(rows: Dataset, column: str) -> list[Any]:
    try:
        return list(dict.fromkeys(rows[column]))  # `rows.unique` would copy rows that were selected from a larger set
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"Labels in column `{column}` should be text in UTF-8. Found: {error}.") from error


def _check_names(column: str, found: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Check that the names of a `ClassLabel` are known, and, if all of the known ones, in the order of the ids."""
    if wanted is None or list(wanted) == list(found) or (wanted and are_ids(found)):
        return
    if set(wanted) == set(found) or not set(found) <= set(wanted):
        raise ConfigurationError(
            f"Labels in column `{column}` should be, in the order of their ids, {quoted(list(wanted))}. "
            f"Found {quoted(found)}."
        )
