"""The label space of a classification or regression data set."""

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

_LARGEST_TARGET = 1e18  # its square, the loss, is finite in float32


@dataclass(frozen=True)
class LabelSpace:
    """The possible labels of a data set: classes with names, or real numbers.

    A label belongs to the class whose name it equals as text. Integers are ids from 0 to n-1 unless one of the names is
    a number, and so are booleans unless one of the names is `True` or `False`. A `ClassLabel` column is read by its
    names if their order differs from these, so that a class is the same in each split; it is read by id if either side
    has only ids.

    Args:
        column: The column of the labels.
        names: The names of the classes in the order of the ids; empty for regression.
        by_name: Whether the order of the names is arbitrary, so that ids mean nothing.
    """

    column: str
    names: tuple[str, ...] = ()
    by_name: bool = False

    @property
    def num_labels(self) -> int:
        """The number of outputs that a model needs: the number of classes, or 1 for regression."""
        return len(self.names) or 1

    @classmethod
    def infer(
        cls, rows: Dataset, column: str, names: Sequence[str] | None = None, problem: Problem | None = None
    ) -> Self:
        """Derive the label space from the rows of the train split.

        Texts, integers, booleans and dates are classes, in sorted order. Floats are regression targets unless `problem`
        is classification. Decimals count as integers if they have no fraction, else as floats.

        Args:
            rows: The rows that determine the classes.
            column: The column of the labels.
            names: The names of all classes in the order of the ids, if they are known.
            problem: Classification or regression; by default the labels determine it.

        Raises:
            ConfigurationError: If there are fewer than two classes, labels are of another type, labels are floats but
                `names` are not numbers, two names look the same, the names of a `ClassLabel` differ from `names` or
                have another order, or labels are names or dates in a regression.
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
            known_names = names or names_of(_distinct(rows, column), kind, column, are_classes=problem is not None)
            space = cls(column, tuple(known_names), by_name=kind == "text")
        if space.num_labels < 2:
            raise ConfigurationError(
                f"Labels in column `{column}` should have at least two classes. Found {quoted(space.names)}."
            )
        if kind == "whole" and not names and problem is None and not are_ids(space.names):
            rank_zero_info(
                f"Labels in column `{column}` are whole numbers and are read as {space.num_labels} classes, "
                f"{quoted(space.names)}. For regression, set `problem=regression`."
            )
        return space

    @classmethod
    def trained(cls, rows: Dataset, column: str, names: Sequence[str]) -> Self:
        """Return the label space of a trained model, for a column that may lack some of the classes.

        Args:
            rows: The rows to label.
            column: The column of the labels.
            names: The names of all classes in the order of the ids; empty for regression.

        Raises:
            ConfigurationError: If the names of a `ClassLabel` differ or have another order.
        """
        from datasets import ClassLabel

        feature = rows.features[column]
        if isinstance(feature, ClassLabel):
            _check_names(column, feature.names, names)
        return cls(column, tuple(names), by_name=kind_of_labels(feature) == "text")

    def encode(self, rows: Dataset, split: str) -> Dataset:
        """Check all labels of a split and return the rows with the column `labels` instead: ids, or floats.

        Raises:
            ConfigurationError: If a label is missing, unknown, out of range, or not finite.
        """
        from datasets import ClassLabel, Value

        feature, values = rows.features[self.column], _distinct(rows, self.column)
        if self.names:
            encoded: dict[Any, Any] = self.ids(feature, values, split)
            kind: Any = ClassLabel(names=list(self.names))
        else:
            encoded, kind = self._numbers(values, split), Value("float32")
        labels = [encoded[value] for value in rows[self.column][:]]
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
            known = {name: index for index, name in enumerate(self.names)}
            ids = {value: known[name] for value, name in shown.items() if name in known}
            allowed = f"among {quoted(self.names)}"
        self._require_none_of([shown[value] for value in values if value not in ids], allowed, split)
        return ids

    def _name(self, feature: Any, value: Any) -> Any:
        from datasets import ClassLabel

        if isinstance(feature, ClassLabel):
            return feature.names[value] if value in range(len(feature.names)) else value
        if isinstance(value, bool):  # `true` in a JSON file
            return next((name for name in self.names if name.casefold() == str(value).casefold()), str(value))
        return spelled(value) if spelled(value) in self.names else value

    def _is_read_by_name(self, feature: Any) -> bool:
        """Return whether labels are names rather than ids of these classes."""
        kind = kind_of_labels(feature)
        if kind == "ids":
            return self.by_name or not are_same(feature.names, self.names)
        if kind in ("whole", "number"):
            return self.by_name or (any(map(is_finite, self.names)) and not are_ids(self.names))
        if kind == "bool":
            return self.by_name or any(name.casefold() in ("true", "false") for name in self.names)
        return True

    def _numbers(self, values: list[Any], split: str) -> dict[Any, float]:
        """Check the different targets of a split and return them as floats."""
        numbers = {}
        for value in values:
            is_number = is_finite(value) if isinstance(value, str) else value is not None
            if is_number and abs(float(value)) <= _LARGEST_TARGET:
                numbers[value] = float(value)
        allowed = f"finite numbers between -{_LARGEST_TARGET:g} and {_LARGEST_TARGET:g}"
        self._require_none_of([value for value in values if value not in numbers], allowed, split)
        return numbers

    def _require_none_of(self, wrong: list[Any], allowed: str, split: str) -> None:
        if not wrong:
            return
        hint = ""
        alike = [name for name in self.names if isinstance(wrong[0], str) and plain(name) == plain(wrong[0])]
        if wrong in ([-1], ["-1"]):
            hint = " -1 marks labels that were not published: use this split as `predict`."
        elif alike:
            hint = f" It differs from `{alike[0]}` only in spaces or in the normal form of Unicode (NFC, NFD)."
        elif wrong[0] and allowed.startswith("among"):
            hint = near_matches(str(wrong[0]), self.names)
        more = ", unless `label_names` lists more" if self.names and not hint.startswith(" -1") else ""
        raise ConfigurationError(
            f"Labels in column `{self.column}` of split `{split}` should be {allowed}{more}. "
            f"Found {quoted(wrong)}.{hint}"
        )


def _distinct(rows: Dataset, column: str) -> list[Any]:
    try:
        return list(dict.fromkeys(rows[column]))  # `rows.unique` would copy rows selected from a larger set
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"Labels in column `{column}` should be text in UTF-8. Found: {error}.") from error


def _check_names(column: str, stored: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Check that the names of a `ClassLabel` are known, and in the order of the ids if they are complete."""
    if wanted is None or list(wanted) == list(stored) or (wanted and are_ids(stored)):
        return
    if set(wanted) == set(stored) or not set(stored) <= set(wanted):
        raise ConfigurationError(
            f"Labels in column `{column}` should be, in the order of their ids, {quoted(list(wanted))}. "
            f"Found {quoted(stored)}."
        )
