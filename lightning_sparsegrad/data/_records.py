"""JSON objects, one per line or in a list, read with the types that they are written in."""

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
_CHUNK = 1000  # values whose types are determined together


def load_records(paths: Sequence[str], reads: Reads) -> Dataset:
    """Return the rows of JSON files with consecutive objects, such as one per line, or with one list of objects.

    Values keep their types: a text that looks like a date or a number stays a text. Rows may lack keys, except those of
    columns to read.

    Raises:
        ValueError: If a row is not an object, has a key twice, or lacks a key to read that another row has; if the
            values of a column have several types; or if a file is not valid JSON or not text in UTF-8.
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
    """Return the type of each column, determined from all rows."""
    from datasets import Features

    columns: dict[str, _Column] = {}
    lacking: dict[str, tuple[str, str]] = {}
    wanted = (*reads.texts, *reads.labels)
    for path in paths:
        for number, row in objects_of(path):
            position = f"{Path(path).name}: line {number}"
            for name, value in row.items():
                if name not in columns:
                    columns[name] = _Column(name, position)
                columns[name].add(value, position)
            for name in wanted:
                if name not in row and name not in lacking:
                    lacking[name] = (position, listed(row))
    for name, (position, keys) in lacking.items():
        if name in columns:
            raise ValueError(f"{position} should have `{name}`, as {columns[name].position} has. Found {keys}")
    return Features({name: column.feature() for name, column in columns.items()})


class _Column:
    """The type of a column, determined value by value."""

    def __init__(self, name: str, position: str) -> None:
        import pyarrow as pa

        self.name, self.position = name, position
        self._kind: type | None = None
        self._nested: list[tuple[str, Any]] = []
        self._type: pa.DataType = pa.null()

    def add(self, value: Any, position: str) -> None:
        if value is None:
            return
        kind = type(value)
        if self._kind is None:
            self._kind, self.position = kind, position
        if kind is not self._kind:
            if {kind, self._kind} != {int, float}:
                raise ValueError(
                    f"{position} should have {_NAMES[self._kind]} as `{self.name}`, as {self.position} has. "
                    f"Found {_NAMES[kind]}: {short(value)}"
                )
            self._kind = float
        if kind is str and not value.isascii():
            _require_characters(value, self.name, position)
        elif kind is int and not -(2**63) <= value < 2**63:
            raise ValueError(
                f"{position} should have numbers of at most 64 bits as `{self.name}`. Found {short(value)}"
            )
        elif kind in (list, dict):
            self._nested.append((position, value))
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
            for position, value in self._nested:
                try:
                    self._type = _common(self._type, pa.array([value]).type)
                except (pa.ArrowException, OverflowError):
                    raise ValueError(
                        f"{position} should have the same types in `{self.name}` as the rows before it. Found "
                        f"{short(value)}"
                    ) from None
        self._nested = []


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    schemas = [pa.schema([("column", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field("column").type


def _require_characters(text: str, name: str, position: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{position} should have text as `{name}`. Found half a character: {short(text)}") from None
