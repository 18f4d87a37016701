"""Sentences in the formats of the CoNLL shared tasks, one word per line."""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from datasets import Dataset, Features, List, Value

UNIVERSAL_DEPENDENCIES = ".conllu"
SHARED_TASKS = ".conll"

_COLUMNS = {  # and where they stand
    UNIVERSAL_DEPENDENCIES: {"words": 1, "lemmas": 2, "upos": 3, "xpos": 4},
    SHARED_TASKS: {"words": 0, "tags": -1},
}
_WIDTH = 10  # columns of UniversalDependencies
_DOCUMENT = "-DOCSTART-"


def load_conll(paths: Sequence[str]) -> Dataset:
    """Return the sentences of some files of one format, which their extension tells.

    A `.conllu` file is UniversalDependencies': ten columns between tabs, of which `words`, `lemmas`, `upos` and `xpos`
    are read; comments, the lines of contracted words (`3-4`) and empty nodes (`8.1`) are passed over. A `.conll` file
    has a word at the beginning of a line and its tag at the end, `words` and `tags`, whatever is between, all apart by
    tabs or else by spaces; lines that begin with `-DOCSTART-` are passed over, and those with `#` unless they end with
    a tag of other lines. A blank line ends a sentence in both.

    Raises:
        ValueError: If a file is not UTF-8, a line has too few columns, or there is no word.

    References:
        Joakim Nivre et al. Universal Dependencies v2. LREC 2020. https://universaldependencies.org/format.html
    """
    columns = _COLUMNS[Path(paths[0]).suffix]
    contents = tuple(sha256(Path(path).read_bytes()).hexdigest() for path in paths)  # a changed file is read again
    if not any(line for path in paths for line in _lines(path)):
        raise ValueError(f"{Path(paths[0]).name}: there is no word in it")
    features = Features(dict.fromkeys(columns, List(Value("string"))))
    return Dataset.from_generator(_sentences, features, gen_kwargs={"paths": tuple(paths), "contents": contents})


def _sentences(paths: Sequence[str], contents: Sequence[str]) -> Iterator[dict[str, list[str]]]:  # noqa: ARG001
    for path in paths:
        columns = _COLUMNS[Path(path).suffix]
        for is_blank, lines in groupby(_lines(path), key=lambda line: not line):
            if not is_blank and (words := [line for line in lines if line]):
                yield {column: [word[place] for word in words] for column, place in columns.items()}


def _lines(path: str) -> Iterator[list[str]]:
    """Yield the columns of each line with a word, and an empty list for each line between sentences."""
    in_tabs = path.endswith(UNIVERSAL_DEPENDENCIES)
    with Path(path).open(encoding="utf-8-sig", newline="\n") as file:
        lines = [line.rstrip("\r\n") for line in file]
    tags = {_columns(line)[-1] for line in lines if line.strip() and not line.startswith("#")}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(_DOCUMENT):
            yield []
            continue
        columns = line.split("\t") if in_tabs else _columns(line)
        if line.startswith("#") and (in_tabs or columns[-1] not in tags):  # else it is the word "#"
            continue
        least = _WIDTH if in_tabs else 2
        if len(columns) < least:
            raise ValueError(f"{Path(path).name}: line {number} has {len(columns)} columns, not {least}: {line!r}")
        if not (in_tabs and not columns[0].isdecimal()):  # contracted words and empty nodes
            yield columns


def _columns(line: str) -> list[str]:
    """Return what is between tabs, or in a line without any, between spaces: a word may hold a no-break space."""
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
