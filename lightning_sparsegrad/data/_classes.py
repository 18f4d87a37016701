"""The names of classes, derived from how labels are written."""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from lightning_sparsegrad.errors import ConfigurationError

TEXT = ("string", "large_string")

_WHOLE = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_MISSING = ("", "-", "?", "inf", "-inf", "n/a", "na", "nan", "nil", "none", "null")


def kind_of_labels(feature: Any) -> str:
    """Return the kind of a column: `ids`, `text`, `whole` numbers, `bool`, `number`, `date`, or `""` if not labels."""
    from datasets import ClassLabel, Value

    if isinstance(feature, ClassLabel):
        return "ids"
    dtype = feature.dtype if isinstance(feature, Value) else ""
    if dtype in TEXT:
        return "text"
    if dtype.startswith(("int", "uint")) or (dtype.startswith("decimal") and dtype.endswith(", 0)")):
        return "whole"
    if dtype.startswith(("float", "decimal")):
        return "number"
    return "bool" if dtype == "bool" else "date" if dtype.startswith(("date", "timestamp")) else ""


def names_of(values: Sequence[Any], kind: str, column: str, *, are_classes: bool) -> list[str]:
    """Return the names of the classes in the order of their ids.

    Numbers, booleans and dates are sorted by value. Text is sorted by its characters, except whole numbers that could
    not be read as such (`00` and `01`) and numbers that are known to be classes.

    Args:
        values: The different labels. Missing ones are reported when they are encoded.
        kind: The kind, by `kind_of_labels`.
        column: The column of the labels.
        are_classes: Whether labels that look like numbers are known to be classes.

    Raises:
        ConfigurationError: If text is numbers with a few exceptions, or two texts are hard to tell apart.
    """
    if kind != "text":
        return [spelled(value) for value in sorted(value for value in values if str(value) not in ("None", "nan"))]
    names = [value for value in values if value and not value.isspace()]
    if not are_classes:
        _require_no_holes(values, column)
    is_whole = all(map(_WHOLE.fullmatch, names))
    has_numbers = are_classes and all(map(is_finite, names))
    if has_numbers or (is_whole and any(str(int(name)) != name for name in names)):
        number: Callable[[str], float] = int if is_whole else float
        _require_different(names, column, number, "be equal as numbers")
        return sorted(names, key=number)
    _require_different(names, column, plain, "differ only in spaces or in the normal form of Unicode (NFC, NFD)")
    return sorted(names)


def spelled(value: Any) -> Any:
    """Return a label as text; `None` for a missing one."""
    return value if value is None or isinstance(value, str) else str(value)


def plain(name: str) -> str:
    """Return a name without invisible differences: surrounding spaces, and its normal form of Unicode."""
    return unicodedata.normalize("NFC", name).strip()


def are_ids(names: Sequence[str]) -> bool:
    """Return whether names are the ids 0 to n-1 of classes without names."""
    return list(names) == [str(index) for index in range(len(names))]


def are_same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether names are of the same classes in the same order; ids match any names.

    Example:
        >>> are_same(["0", "1"], ["bad", "good"]), are_same(["0", "1"], ["1", "2"])
        (True, False)
    """
    for ids, names in ((one, other), (other, one)):
        if are_ids(ids) and not (all(map(is_whole, names)) and not are_ids([str(int(name)) for name in names])):
            return True
    return list(one) == list(other)


def is_whole(name: str) -> bool:
    """Return whether a name is a whole number."""
    return bool(_WHOLE.fullmatch(name))


def is_finite(text: str | None) -> bool:
    """Return whether a text is a finite number."""
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False


def quoted(values: Sequence[Any], limit: int = 10) -> str:
    """Return values as a list in a sentence, with look-alike characters written out."""
    shown = ", ".join(f"`{_shown(value)}`" for value in values[:limit])
    return f"{shown} and {len(values) - limit} more" if len(values) > limit else shown or "none"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return ascii(value) if value != plain(value) else repr(value)
    return str(value)


def _require_different(names: list[str], column: str, key: Callable[[str], Any], sentence: str) -> None:
    seen: dict[Any, str] = {}
    for name in names:
        other = seen.setdefault(key(name), name)
        if other != name:
            raise ConfigurationError(
                f"Labels in column `{column}` should not {sentence}, unless `label_names` lists the classes. "
                f"Found {quoted([other, name])}."
            )


def _require_no_holes(values: Sequence[str | None], column: str) -> None:
    """Check that texts are not numbers with a few exceptions."""
    odd = [value for value in values if not is_finite(value)]
    numbers = [value for value in values if value is not None and is_finite(value)]
    has_holes = any((value or "").strip().casefold() in _MISSING for value in odd)
    if odd and 2 * len(odd) <= len(values) and (has_holes or not all(map(is_whole, numbers))):
        raise ConfigurationError(
            f"Labels in column `{column}` should all be numbers, or all be names, unless `label_names` lists the "
            f"classes. Found {quoted(odd)} among numbers."
        )
