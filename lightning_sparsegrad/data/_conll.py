"""Sentences in the formats of the CoNLL shared tasks, with one word per line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_sparsegrad.data._lines import digests_of

if TYPE_CHECKING:
    from datasets import Dataset

UNIVERSAL_DEPENDENCIES = ".conllu"
SHARED_TASKS = ".conll"

_COLUMNS = {  # with their indices
    UNIVERSAL_DEPENDENCIES: {"words": 1, "lemmas": 2, "upos": 3, "xpos": 4},
    SHARED_TASKS: {"words": 0, "tags": -1},
}
_WIDTH = 10  # columns of UniversalDependencies
_DOCUMENT = "-DOCSTART-"
_BLANKS = " \t\r\n"  # ASCII only: other white space may be a word
_SPAN = re.compile(r"[A-Z]-.")  # such a tag marks a word in any file


def load_conll(paths: Sequence[str]) -> Dataset:
    """Return the sentences of files of one format, given by their extension.

    A `.conllu` file is of Universal Dependencies: ten columns separated by tabs, of which `words`, `lemmas`, `upos` and
    `xpos` are read. Comments, the lines of contracted words (`3-4`) and empty nodes (`8.1`) are skipped.

    A `.conll` file has a word at the start of each line and its tag at the end, read as `words` and `tags`; columns
    between them are ignored. Columns are separated by tabs if the line has one, else by spaces. A file to predict, with
    one word per line, has no `tags`. Lines that begin with `-DOCSTART-` and comments are skipped.

    In both formats a blank line ends a sentence.

    A comment of a `.conll` file comes before a sentence and begins with `#`, but so may a word. A line that begins with
    `# ` is a word if another word has as many columns and the same tag. A line that begins with `#` without a space,
    such as `#id 3`, is a comment only if it cannot be a word: no word has its tag, and it has either another number of
    columns or a number as its tag.

    Raises:
        ValueError: If a file is not UTF-8, a line has too few columns or may be a comment or a word, or there is no
            word.

    References:
        Joakim Nivre et al. Universal Dependencies v2. LREC 2020. https://universaldependencies.org/format.html
    """
    from datasets import Dataset, Features, List, Value

    columns = _COLUMNS[Path(paths[0]).suffix]
    if Path(paths[0]).suffix == SHARED_TASKS and all(map(_has_no_tags, paths)):
        columns = {"words": 0}
    features = Features(dict.fromkeys(columns, List(Value("string"))))
    facts = {"paths": tuple(paths), "columns": columns, "contents": digests_of(paths)}
    return Dataset.from_generator(_sentences, features, gen_kwargs=facts)


def _sentences(
    paths: Sequence[str],
    columns: dict[str, int],
    contents: Sequence[str],  # noqa: ARG001
) -> Iterator[dict[str, list[str]]]:
    is_empty = True
    for path in paths:
        suffix = Path(path).suffix
        least = 1 + ("tags" in columns)
        is_tree = suffix == UNIVERSAL_DEPENDENCIES
        lines = _lines_of_dependencies(path) if is_tree else _lines_of_shared_tasks(path, least)
        for is_blank, words in groupby(lines, key=lambda line: not line):
            if not is_blank:
                sentence, is_empty = list(words), False
                yield {column: [word[index] for word in sentence] for column, index in columns.items()}
    if is_empty:
        raise ValueError(f"{', '.join(Path(path).name for path in paths)}: no line has a word")


def _lines_of_dependencies(path: str) -> Iterator[list[str]]:
    """Yield the columns of each word, and an empty list for each line between sentences."""
    for number, line in _numbered(path):
        if not line.strip(_BLANKS):
            yield []
        elif not line.startswith("#"):
            columns = _require_columns(line.split("\t"), _WIDTH, path, number)
            if columns[0].isdecimal():  # otherwise a contracted word or an empty node
                yield columns


def _lines_of_shared_tasks(path: str, least: int) -> Iterator[list[str]]:
    """Yield the same for words with at least `least` columns, without comments."""
    lines = list(_read(path))
    words = [columns for _, columns, mark in lines if columns and not mark]
    for number, columns, mark in lines:
        if mark == "#..." and _is_word(columns, words, path, number):
            words.append(columns)
    layouts = {(len(columns), columns[-1]) for columns in words}
    for number, columns, mark in lines:
        if not mark or (len(columns), columns[-1]) in layouts:
            yield _require_columns(columns, least, path, number) if columns else columns


def _read(path: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield the number and the columns of each line, and `"# "` or `"#..."` if it may be a comment."""
    is_start = True
    for number, line in _numbered(path):
        text = line.strip(_BLANKS)
        columns = [] if text.startswith(_DOCUMENT) else _split(text)
        may_be_comment = is_start and text.startswith("#") and not text.startswith("#\t")
        mark = "" if not may_be_comment else "# " if columns[0] == "#" else "#..."
        yield number, columns, mark
        is_start = not columns or bool(mark)


def _has_no_tags(path: str) -> bool:
    return {len(columns) for _, columns, mark in _read(path) if columns and not mark} == {1}


def _is_word(columns: list[str], words: list[list[str]], path: str, number: int) -> bool:
    """Return whether a line before a sentence that begins with `#` without a space is a word, given other words."""
    widths, tags = {len(word) for word in words}, {word[-1] for word in words}
    tag = columns[-1]
    if widths <= {1}:
        return not widths or len(columns) == 1
    if tag in tags or len(columns) not in widths:
        return tag in tags
    if _SPAN.match(tag):
        return True
    if tag.isdecimal() and not any(map(str.isdecimal, tags)):
        return False
    raise ValueError(
        f"{Path(path).name}: line {number} may be a comment or a word whose tag `{tag}` no other word has; "
        f"`# ` begins a comment: {' '.join(columns)!r}"
    )


def _split(text: str) -> list[str]:
    if "\t" in text:
        return [column.strip(" ") for column in text.split("\t")]
    return [column for column in text.split(" ") if column]


def _numbered(path: str) -> Iterator[tuple[int, str]]:
    with Path(path).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            yield number, line.rstrip("\n")


def _require_columns(columns: list[str], least: int, path: str, number: int) -> list[str]:
    if len(columns) < least:
        line = "\t".join(columns)
        raise ValueError(f"{Path(path).name}: line {number} has {len(columns)} columns, not {least}: {line!r}")
    return columns
