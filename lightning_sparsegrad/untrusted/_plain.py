"""Limits on values read from a file: their depth, their number, cycles, and the types of keys."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

MAX_DEPTH = 100  # levels; code that reads a config recurses once per level
MAX_VALUES = 1_000_000  # with shared values expanded: 30 nested lists of two, or nine lines of aliases, can be 10^9


def fault_of(value: Any) -> str:
    """Return the fault of a value from a file, worded to follow "Found"; empty if there is none.

    Args:
        value: The value. The contents of mappings, lists, tuples and sets are checked, too.
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
