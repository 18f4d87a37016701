from pathlib import Path

import pytest

from lightning_sparsegrad.data._origins import load_files, resolve_files
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases


def word(index: str, form: str, upos: str = "X") -> str:
    return "\t".join([index, form, form.lower(), upos, f"{upos}-x", "_", "0", "dep", "_", "_"])


GERMAN = [
    "# sent_id = 1",
    "# text = Im Haus liest sie.",
    word("1-2", "Im", "_"),
    word("1", "In", "ADP"),
    word("2", "dem", "DET"),
    word("3", "Haus", "NOUN"),
    word("3.1", "ist", "VERB"),
    word("4", "New York", "PROPN"),  # words may hold blanks
    "",
    "",
    "# text = 雨",
    word("1", "雨", "NOUN"),
]
NAMES = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n\nभारत\tNNP\tB-LOC\nमें PSP O"


def load(path: Path, text: str) -> list[dict[str, list[str]]]:
    path.write_bytes(text.encode())
    return list(load_files(resolve_files({"train": str(path)}))["train"])


@pytest.fixture(params=["\n", "\r\n"])
def newline(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cases("end", ["", "\n", "\n\n"])
def test_universal_dependencies(tmp_path: Path, newline: str, end: str) -> None:
    first, second = load(tmp_path / "de.conllu", ("\n".join(GERMAN) + end).replace("\n", newline))
    assert first["words"] == ["In", "dem", "Haus", "New York"]
    assert first["upos"] == ["ADP", "DET", "NOUN", "PROPN"]
    assert first["xpos"][0] == "ADP-x"
    assert first["lemmas"][2] == "haus"
    assert second["words"] == ["雨"]


@cases("mark", ["", "\ufeff"])
def test_names_of_the_shared_tasks(tmp_path: Path, newline: str, mark: str) -> None:
    rows = load(tmp_path / "names.conll", mark + NAMES.replace("\n", newline))
    assert rows == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["भारत", "में"], "tags": ["B-LOC", "O"]},
    ]


@cases(
    ("text", "words", "tags"),
    [
        ("Hà Nội\tB-LOC\nlà\tO\n", [["Hà Nội", "là"]], [["B-LOC", "O"]]),  # a word may hold blanks between tabs
        ("New York \t NNP\tB-LOC\t\n", [["New York"]], [["B-LOC"]]),
        ("10\u00a0000  CD O\n\u00a0 X O\n\u3000 X O\n", [["10\u00a0000", "\u00a0", "\u3000"]], [["O"] * 3]),
        ("# id 7f\train=en\nsun _ _ O\n\n# id 8\nday _ _ O\n", [["sun"], ["day"]], [["O"], ["O"]]),
        ("# id 7f domain=en\n# text\n#\nsun _ _ O\n", [["sun"]], [["O"]]),  # as many columns as a word
        ("# O\n1 O\n\nis O\n# O\n", [["#", "1"], ["is", "#"]], [["O", "O"], ["O", "O"]]),  # words
        ("# id 1\nis O\n# SYM\n\n# SYM\n", [["is", "#"], ["#"]], [["O", "SYM"], ["SYM"]]),
        ("#\tSYM\n1\tNUM\n", [["#", "1"]], [["SYM", "NUM"]]),
        ("#tag O\n#2 O\n", [["#tag", "#2"]], [["O", "O"]]),
        ("#id 3\nis O\n\n#id 4\n# day\nSun B-X\n", [["is"], ["Sun"]], [["O"], ["B-X"]]),
        ("#newdoc\n#id 3\nis _ _ O\n\n#page four\nSun _ _ B-X\n", [["is"], ["Sun"]], [["O"], ["B-X"]]),
        ("#Sun B-X\nis O\n\n#day O\n#1 O\n", [["#Sun", "is"], ["#day", "#1"]], [["B-X", "O"], ["O", "O"]]),
        ("#4 7\nis 7\n\n#day O O\nis O\n", [["#4", "is"], ["#day", "is"]], [["7", "7"], ["O", "O"]]),
        ("is O\n#id 3\n", [["is", "#id"]], [["O", "3"]]),  # not before a sentence
    ],
)
def test_columns_and_comments(tmp_path: Path, text: str, words: list[list[str]], tags: list[list[str]]) -> None:
    rows = load(tmp_path / "a.conll", text)
    assert ([row["words"] for row in rows], [row["tags"] for row in rows]) == (words, tags)


def test_words_alone_are_read_to_be_predicted(tmp_path: Path) -> None:
    rows = load(tmp_path / "a.conll", "# id 1\n#tag\nis\n\n#id 2\nit\n#\n")
    assert rows == [{"words": ["#tag", "is"]}, {"words": ["it", "#"]}]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    before = load(tmp_path / "a.conll", "rain O\n")
    after = load(tmp_path / "a.conll", "Rain O\n")
    assert (before[0]["words"], after[0]["words"]) == (["rain"], ["Rain"])


@cases(
    ("name", "text", "message"),
    [
        ("a.conll", "rain O\nday\n", r"readable as \.conll\. .*: a\.conll: line 2 has 1 columns, not 2: 'day'\."),
        (
            "a.conll",
            "#page four\nis O\n",
            r"line 1 may be a comment or a word whose tag `four` .* `# ` begins a comment",
        ),
        ("a.conll", "#id 3\nis 4\n", r"line 1 may be a comment or a word whose tag `3` no other word has"),
        ("a.conllu", "1\train\train\tX\n", r"readable as \.conllu\. .*: a\.conllu: line 1 has 4 columns, not 10"),
        ("a.conll", "\udc80 O\n", r"readable as \.conll\. .*codec can't decode"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match=message):
        load_files(resolve_files({"train": str(tmp_path / name)}))


@cases("text", ["\n\n", " \t\n", "# id 1\n"])
def test_a_file_without_words_is_reported(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"readable as \.conll\. .*: a\.conll: no line has a word\."):
        load(tmp_path / "a.conll", text)
