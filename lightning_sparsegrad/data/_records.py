"""Objects of JSON, one to a line or in a list, read as they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.data._checks import listed
from lightning_sparsegrad.data._lines import digests_of
from lightning_sparsegrad.data._objects import objects_of, short
from lightning_sparsegrad.data._reads import Reads

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
    from datasets import Dataset, Features

_SCALARS = {bool: "bool", int: "int64", float: "float64", str: "string"}
_NAMES = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
_CHUNK = 1000  # values whose types are found at once


def load_records(paths: Sequence[str], reads: Reads) -> Dataset:
    """Return the rows of files of JSON: objects one after the other, mostly one to a line, or one list of objects.

    Values keep the types they are written in: a text that looks like a date or a number stays a text. Keys may be
    missing except those that are read.

    Raises:
        ValueError: If a row is no object, has a key twice or lacks one that is read and that another row has, a column
            holds values of several types, or a file is not valid JSON or no text in UTF-8.
    """
    from datasets import Dataset

    features = _features(paths, reads)
    if not features:
        return Dataset.from_dict({})
    facts = {"paths": tuple(paths), "columns": tuple(features), "contents": digests_of(paths)}
    return Dataset.from_generator(_rows, features, gen_kwargs=facts)


def _rows(paths: Sequence[str], columns: Sequence[str], contents: Sequence[str]) -> Iterator[dict[str, Any]]:  # noqa: ARG001
    for path in paths:
        for _, row in objects_of(path):
            yield {column: row.get(column) for column in columns}


def _features(paths: Sequence[str], reads: Reads) -> Features:
    """Return the type of each column, after a look at every row."""
    from datasets import Features

    columns: dict[str, _Column] = {}
    lacking: dict[str, tuple[str, str]] = {}
    wanted = (*reads.texts, *reads.labels)
    for path in paths:
        for number, row in objects_of(path):
            place = f"{Path(path).name}: line {number}"
            for name, value in row.items():
                if name not in columns:
                    columns[name] = _Column(name, place)
                columns[name].add(value, place)
            for name in wanted:
                if name not in row and name not in lacking:
                    lacking[name] = (place, listed(row))
    for name, (place, found) in lacking.items():
        if name in columns:
            raise ValueError(f"{place} should have `{name}`, as {columns[name].place} has. Found {found}")
    return Features({name: column.feature() for name, column in columns.items()})


class _Column:
    """The type of a column, learnt value by value."""

    def __init__(self, name: str, place: str) -> None:
        import pyarrow as pa

        self.name, self.place = name, place
        self._kind: type | None = None
        self._nested: list[tuple[str, Any]] = []
        self._type: pa.DataType = pa.null()

    def add(self, value: Any, place: str) -> None:
        if value is None:
            return
        kind = type(value)
        if self._kind is None:
            self._kind, self.place = kind, place
        if kind is not self._kind:
            if {kind, self._kind} != {int, float}:
                raise ValueError(
                    f"{place} should have {_NAMES[self._kind]} as `{self.name}`, as {self.place} has. "
                    f"Found {_NAMES[kind]}: {short(value)}"
                )
            self._kind = float
        if kind is str and not value.isascii():
            _require_characters(value, self.name, place)
        elif kind is int and not -(2**63) <= value < 2**63:
            raise ValueError(f"{place} should have numbers of at most 64 bits as `{self.name}`. Found {short(value)}")
        elif kind in (list, dict):
            self._nested.append((place, value))
            if len(self._nested) == _CHUNK:
                self._learn()

    def feature(self) -> Any:
        import pyarrow as pa
        from datasets import Features, Value

        if self._kind in _SCALARS:
            return Value(_SCALARS[self._kind])
        self._learn()
        return Features.from_arrow_schema(pa.schema([(self.name, self._type)]))[self.name]

    def _learn(self) -> None:
        import pyarrow as pa

        try:
            self._type = _common(self._type, pa.array([value for _, value in self._nested]).type)
        except (pa.ArrowException, OverflowError):
            for place, value in self._nested:
                try:
                    self._type = _common(self._type, pa.array([value]).type)
                except (pa.ArrowException, OverflowError):
                    raise ValueError(
                        f"{place} should have the same types in `{self.name}` as the rows before it. Found "
                        f"{short(value)}"
                    ) from None
        self._nested = []


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    schemas = [pa.schema([("column", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field("column").type


def _require_characters(text: str, name: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} should have text as `{name}`. Found half a character: {short(text)}") from None
