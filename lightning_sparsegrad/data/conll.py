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
_BLANKS = " \t\r\n"  # of ASCII: a word may be another


def load_conll(paths: Sequence[str]) -> Dataset:
    """Return the sentences of some files of one format, which their extension tells.

    A `.conllu` file is UniversalDependencies': ten columns between tabs, of which `words`, `lemmas`, `upos` and `xpos`
    are read; comments, the lines of contracted words (`3-4`) and empty nodes (`8.1`) are passed over. A `.conll` file
    has a word at the beginning of a line and its tag at the end, `words` and `tags`, whatever is between; columns stand
    between tabs where a line has one, else between spaces. Lines that begin with `-DOCSTART-` are passed over, and
    comments: lines before a sentence that begin with `# `, unless they have as many columns as a word elsewhere, and
    its tag, for then `#` is a word. A blank line ends a sentence in both.

    Raises:
        ValueError: If a file is not UTF-8, a line has too few columns, or there is no word.

    References:
        Joakim Nivre et al. Universal Dependencies v2. LREC 2020. https://universaldependencies.org/format.html
    """
    columns = _COLUMNS[Path(paths[0]).suffix]
    # a changed file is read again, and all by changed code
    contents = tuple(sha256(Path(path).read_bytes()).hexdigest() for path in (__file__, *paths))
    features = Features(dict.fromkeys(columns, List(Value("string"))))
    return Dataset.from_generator(_sentences, features, gen_kwargs={"paths": tuple(paths), "contents": contents})


def _sentences(paths: Sequence[str], contents: Sequence[str]) -> Iterator[dict[str, list[str]]]:  # noqa: ARG001
    is_empty = True
    for path in paths:
        suffix = Path(path).suffix
        lines = _lines_of_dependencies(path) if suffix == UNIVERSAL_DEPENDENCIES else _lines_of_shared_tasks(path)
        for is_blank, words in groupby(lines, key=lambda line: not line):
            if not is_blank:
                sentence, is_empty = list(words), False
                yield {column: [word[place] for word in sentence] for column, place in _COLUMNS[suffix].items()}
    if is_empty:
        raise ValueError(f"{', '.join(Path(path).name for path in paths)}: no line holds a word")


def _lines_of_dependencies(path: str) -> Iterator[list[str]]:
    """Yield the columns of each line with a word, and an empty list for each line between sentences."""
    for number, line in _numbered(path):
        if not line.strip(_BLANKS):
            yield []
        elif not line.startswith("#"):
            columns = _require_columns(line.split("\t"), _WIDTH, path, number)
            if columns[0].isdecimal():  # else contracted words and empty nodes
                yield columns


def _lines_of_shared_tasks(path: str) -> Iterator[list[str]]:
    """Yield the same; what may be a comment is one unless it looks like a line that is none."""
    lines: list[tuple[int, list[str], bool]] = []
    is_start = True
    for number, line in _numbered(path):
        text = line.strip(_BLANKS)
        columns = [] if text.startswith(_DOCUMENT) else _split(text)
        may_be_comment = is_start and f"{text} ".startswith("# ")
        lines.append((number, columns, may_be_comment))
        is_start = not columns or may_be_comment
    layouts = {(len(columns), columns[-1]) for _, columns, may_be_comment in lines if columns and not may_be_comment}
    for number, columns, may_be_comment in lines:
        if not may_be_comment or (len(columns), columns[-1]) in layouts:
            yield _require_columns(columns, 2, path, number) if columns else columns


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
        found = "\t".join(columns)
        raise ValueError(f"{Path(path).name}: line {number} has {len(columns)} columns, not {least}: {found!r}")
    return columns
