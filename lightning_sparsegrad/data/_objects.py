"""The JSON objects of a file, and the lines in which they begin."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lightning_sparsegrad.data._lines import lines_of

_BLANK = re.compile(r"\s*")


def objects_of(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row and the number of the line in which it begins.

    Raises:
        ValueError: If a row is not an object, or the file is not valid JSON.
    """
    number = 1
    try:
        for number, row in _values(lines_of(path)):
            if type(row) is not dict:
                raise ValueError(f"{Path(path).name}: line {number} should have an object. Found {short(row)}")
            yield number, row
    except json.JSONDecodeError as error:
        raise ValueError(f"{Path(path).name}: line {error.lineno} is not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{Path(path).name}: an object after line {number} is nested too deeply") from None
    except _RepeatedKeyError as error:
        raise ValueError(
            f"{Path(path).name}: an object that begins in line {number} has the key `{error}` twice"
        ) from None


def _values(lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Yield each value and the number of its line: line by line if each line is a value, else from the whole text."""
    read: list[str] = []
    for line in lines:
        read.append(line)
        if line.strip():
            break
    try:
        first = _DECODER.decode(read[-1]) if read and not read[-1].lstrip().startswith("[") else None
    except json.JSONDecodeError:
        first = None
    if first is None:
        yield from _values_of_text("".join(chain(read, lines)))
        return
    yield len(read), first
    for number, line in enumerate(lines, start=len(read) + 1):
        if line.strip():
            try:
                value = _DECODER.decode(line)
            except json.JSONDecodeError as error:
                error.lineno = number
                raise
            yield number, value


def _values_of_text(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the values of a list, or consecutive values, and the numbers of their lines."""
    position = _after_blanks(text, 0)
    is_list = text.startswith("[", position)
    position += is_list
    number, counted = 1, 0
    while (position := _after_blanks(text, position)) < len(text):
        if is_list and text[position] == "]":
            position = _after_blanks(text, position + 1)
            if position < len(text):
                raise json.JSONDecodeError("Extra data", text, position)
            return
        number, counted = number + text.count("\n", counted, position), position
        value, position = _DECODER.raw_decode(text, position)
        yield number, value
        position = _after_blanks(text, position)
        if is_list and text.startswith(",", position):
            position += 1
        elif is_list and not text.startswith("]", position):
            raise json.JSONDecodeError("Expecting `,` or `]`", text, position)
    if is_list:
        raise json.JSONDecodeError("The list has no end", text, len(text))


def _after_blanks(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


class _RepeatedKeyError(Exception):
    pass


def _with_different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return entries


_DECODER = json.JSONDecoder(object_pairs_hook=_with_different_keys)


def short(value: Any, limit: int = 60) -> str:
    """Return the start of a value as JSON."""
    text = json.dumps(value)
    return f"`{text if len(text) <= limit else f'{text[:limit]}...'}`"
