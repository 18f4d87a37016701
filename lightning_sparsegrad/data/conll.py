"""Sentences in the formats of the CoNLL shared tasks, one word per line."""

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
    has a word at the beginning of a line and its tag at the end, `words` and `tags`, whatever is between; lines that
    begin with `-DOCSTART-` are passed over. A blank line ends a sentence in both.

    Raises:
        ValueError: If a file is not UTF-8, or a line has too few columns.

    References:
        Joakim Nivre et al. Universal Dependencies v2. LREC 2020. https://universaldependencies.org/format.html
    """
    columns = _COLUMNS[Path(paths[0]).suffix]
    contents = tuple(sha256(Path(path).read_bytes()).hexdigest() for path in paths)  # a changed file is read again
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
    with Path(path).open(encoding="utf-8-sig") as lines:
        for number, text in enumerate(lines, start=1):
            line = text.strip()
            if not line or line.startswith(_DOCUMENT):
                yield []
                continue
            if in_tabs and line.startswith("#"):
                continue
            columns = text.rstrip("\n").split("\t") if in_tabs else line.split()
            least = _WIDTH if in_tabs else 2
            if len(columns) < least:
                raise ValueError(f"{Path(path).name}: line {number} has {len(columns)} columns, not {least}: {line!r}")
            if not (in_tabs and not columns[0].isdecimal()):  # contracted words and empty nodes
                yield columns
