"""Tables separated by commas or tabs, read literally."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.data._checks import listed
from lightning_sparsegrad.data._lines import digests_of, lines_of
from lightning_sparsegrad.data._reads import Reads

if TYPE_CHECKING:
    from datasets import Dataset

SEPARATORS = {".csv": ",", ".tsv": "\t"}

_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_LONGEST_FIELD = 2**31 - 1  # characters; Python's own limit is 131,072
_INTEGER = re.compile(
    r"0|-?[1-9]\d{0,17}", re.ASCII
)  # Python's notation, so that writing it gives the same text; fits int64
_NUMBER = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *", re.ASCII)
_FRACTION = re.compile(r"[.eE]")
_DTYPES = {int: "int64", float: "float64", str: "string"}


def load_table(paths: Sequence[str], reads: Reads) -> Dataset:
    r"""Return the rows of csv or tsv files that have the same columns.

    The first line names the columns. Quotation marks enclose fields of a csv file, but belong to the fields of a tsv
    file. A column of text is kept as written. Any other column has integers if each value is in Python's notation of an
    integer, floats if all are numbers and one has a fraction or an exponent, and text otherwise. Labels that are known
    to be classes are integers or text. Blank lines are skipped.

    Raises:
        ValueError: If a line has more or fewer fields than the first, a quotation mark is never closed, the columns of
            two files differ, two columns to read have the same name, or a file is not text in UTF-8.
    """
    from datasets import Dataset, Features, Value

    kinds = _kinds(paths, reads)
    if not kinds:
        return Dataset.from_dict({})
    features = Features({name: Value(_DTYPES[kind]) for name, kind in kinds.items()})
    facts = {"paths": tuple(paths), "reads": reads, "kinds": kinds, "contents": digests_of(paths)}
    return Dataset.from_generator(_typed_rows, features, gen_kwargs=facts)


def _typed_rows(
    paths: Sequence[str],
    reads: Reads,
    kinds: dict[str, type],
    contents: Sequence[str],  # noqa: ARG001
) -> Iterator[dict[str, Any]]:
    for path in paths:
        header, rows = _open(path, reads)
        columns = [(name, kinds[name]) for name in header]
        for row in rows:
            yield {name: kind(field) for (name, kind), field in zip(columns, row, strict=True)}


def _kinds(paths: Sequence[str], reads: Reads) -> dict[str, type]:
    """Return the type of each column (`int`, `float` or `str`), determined from all rows; empty without rows."""
    names: list[str] = []
    numbers, wholes, fractions = set[str](), set[str](), set[str]()
    is_empty = True
    for path in paths:
        header, rows = _open(path, reads)
        if not names:
            names = header
            numbers = set(header) - set(reads.texts)
            wholes = set(numbers)
        elif set(header) != set(names):
            raise ValueError(
                f"{Path(path).name}: the columns should be those of {Path(paths[0]).name}, {listed(names)}. "
                f"Found {listed(header)}"
            )
        indices = {name: header.index(name) for name in names}
        for row in rows:
            is_empty = False
            for name in tuple(numbers):
                field = row[indices[name]]
                if name in wholes and _INTEGER.fullmatch(field):
                    continue
                wholes.discard(name)
                if not _NUMBER.fullmatch(field):
                    numbers.discard(name)
                elif _FRACTION.search(field):
                    fractions.add(name)
    floats = (numbers & fractions).difference(reads.labels if reads.are_classes else ())
    return {} if is_empty else {name: int if name in wholes else float if name in floats else str for name in names}


def _open(path: str, reads: Reads) -> tuple[list[str], Iterator[list[str]]]:
    """Return the names of the columns, and the rows, each with one field per column."""
    lines = _without_blank_lines(path)
    _, header = next(lines, (1, []))
    _require_separator(path, header, reads)
    return _distinct(path, header, reads), _require_width(path, header, lines)


def _require_width(path: str, header: list[str], lines: Iterator[tuple[int, list[str]]]) -> Iterator[list[str]]:
    for number, row in lines:
        if len(row) != len(header):
            hint = ""
            if len(row) == len(header) + 1 and not row[-1]:
                hint = ". A separator at the end of a line starts another field"
            elif len(row) > len(header) and Path(path).suffix == ".csv":
                hint = ". Enclose a text with a comma in quotation marks"
            raise ValueError(
                f"{Path(path).name}: line {number} should have {_count(header)} as the first line has, "
                f"{listed(header)}. Found {_count(row)}{hint}"
            )
        yield row


def _without_blank_lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that is not blank.

    In a file with one column a blank line could be an empty text, so that none is allowed between other lines.
    """
    blank: int | None = None
    width = 0
    for number, row in _lines_of_fields(path):
        if not row or (width != 1 and len(row) == 1 and row[0].isspace()):
            blank = blank or number
            continue
        if blank and width == 1:
            hint = "" if Path(path).suffix == ".tsv" else ', or write `""` for an empty text'
            raise ValueError(f"{Path(path).name}: line {blank} is blank. Remove it{hint}")
        if not width:
            width, blank = len(row), None
        yield number, row


def _lines_of_fields(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each row; if a quoted field spans lines, the number of the first."""
    separator = SEPARATORS[Path(path).suffix]
    quoting: Any = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines_of(path), delimiter=separator, quoting=quoting, strict=True)
    number = 1
    longest = csv.field_size_limit(_LONGEST_FIELD)
    try:
        for row in reader:
            yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        if "end of data" in str(error):
            raise ValueError(
                f"{Path(path).name}: a quotation mark that opens a field in line {number} is never closed"
            ) from None
        raise ValueError(
            f"{Path(path).name}: line {reader.line_num} cannot be split into fields: {error}. Write a quotation mark "
            f"inside a quoted field twice"
        ) from None
    finally:
        csv.field_size_limit(longest)


def _require_separator(path: str, header: list[str], reads: Reads) -> None:
    """Check that the header has not been read as a single column because of another separator."""
    if len(header) != 1:
        return
    suffix = Path(path).suffix
    for separator, name in _NAMES.items():
        parts = [part.strip(' "') for part in header[0].split(separator)]
        if len(parts) > 1 and set(parts) & {*reads.texts, *reads.labels} and header[0] not in reads.texts:
            raise ValueError(
                f"{Path(path).name}: columns of a {suffix} file should be separated by {_NAMES[SEPARATORS[suffix]]}. "
                f"Found {name}: `{header[0]}`"
            )


def _distinct(path: str, header: list[str], reads: Reads) -> list[str]:
    """Return a unique name for each column; columns without one, or with another's, are named as in pandas."""
    names: list[str] = []
    for index, name in enumerate(header):
        if name in names and name in (*reads.texts, *reads.labels):
            raise ValueError(
                f"{Path(path).name}: the columns to read should have different names. Found `{name}` twice"
            )
        unique = name or f"Unnamed: {index}"
        count = 0
        while unique in names:
            count += 1
            unique = f"{name}.{count}"
        names.append(unique)
    return names


def _count(row: Sequence[str]) -> str:
    return f"{len(row)} field{'s' * (len(row) != 1)}"
