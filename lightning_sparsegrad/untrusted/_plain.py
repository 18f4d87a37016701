"""Bounds on values that come from a file: of an ordinary depth and size, without cycles, with keys that name things."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

MAX_DEPTH = 100  # levels; what reads a config calls itself once a level
MAX_VALUES = 1_000_000  # with what is shared written out: 30 lists of two or nine lines of aliases can be 10^9


def fault_of(value: Any) -> str:
    """Return what is wrong with a value from a file, as it follows "Found"; an empty text where nothing is.

    Args:
        value: What was read. What is in mappings, lists, tuples and sets is looked at, whatever else it may be.
    """
    levels: list[Iterator[Any]] = [iter([value])]
    count = 0
    while levels:
        each = next(levels[-1], levels)
        if each is levels:
            levels.pop()
            continue
        count += 1
        if count > MAX_VALUES:
            return f"more than {MAX_VALUES} values"
        if isinstance(each, Mapping):
            for key in each:
                if isinstance(key, bool) or not isinstance(key, str | int | float):
                    return f"a key of type `{type(key).__name__}`"
            each = list(each.values())
        if isinstance(each, Collection) and isinstance(each, list | tuple | set | frozenset):
            levels.append(iter(each))
            if len(levels) > MAX_DEPTH + 1:
                return f"more than {MAX_DEPTH} levels"
    return ""
