from pathlib import Path

import pytest

from lightning_sparsegrad.data.loading import load_files, resolve_files
from lightning_sparsegrad.errors import ConfigurationError


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


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_universal_dependencies(tmp_path: Path, newline: str, end: str) -> None:
    first, second = load(tmp_path / "de.conllu", ("\n".join(GERMAN) + end).replace("\n", newline))
    assert first["words"] == ["In", "dem", "Haus", "New York"]
    assert first["upos"] == ["ADP", "DET", "NOUN", "PROPN"]
    assert first["xpos"][0] == "ADP-x"
    assert first["lemmas"][2] == "haus"
    assert second["words"] == ["雨"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_names_of_the_shared_tasks(tmp_path: Path, newline: str, mark: str) -> None:
    rows = load(tmp_path / "names.conll", mark + NAMES.replace("\n", newline))
    assert rows == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["भारत", "में"], "tags": ["B-LOC", "O"]},
    ]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    before = load(tmp_path / "a.conll", "rain O\n")
    after = load(tmp_path / "a.conll", "Rain O\n")
    assert (before[0]["words"], after[0]["words"]) == (["rain"], ["Rain"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.conll", "rain O\nday\n", r"readable as \.conll\. .*: a\.conll: line 2 has 1 columns, not 2: 'day'\."),
        ("a.conllu", "1\train\train\tX\n", r"readable as \.conllu\. .*: a\.conllu: line 1 has 4 columns, not 10"),
        ("a.conll", "\udc80 O\n", r"readable as \.conll\. .*codec can't decode"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match=message):
        load_files(resolve_files({"train": str(tmp_path / name)}))


def test_a_file_without_words_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"readable as \.conll\. Found `data_files.train = .*no data"):
        load(tmp_path / "a.conll", "\n\n")
