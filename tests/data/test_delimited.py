"""csv and tsv files are read literally, or refused with the number of the line."""

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from lightning_sparsegrad.data import TextDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases


def read(tmp_path: Path, name: str, text: str | bytes, split: str = "train", **arguments: Any) -> list[tuple[Any, ...]]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = TextDataModule(data_files={split: str(path)}, **arguments).rows(split)
    return [tuple(row.values()) for row in rows]


@cases(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "label,text\npos,good film, really\nneg,bad\n",
            r"line 2 should have 2 fields .*, `label`, `text`\. "
            r"Found 3 fields\. Enclose a text with a comma in quotation marks\.$",
        ),
        ("a.csv", "label,text\npos,good\nneg,bad, really\n", "line 3 should have 2 fields .* Found 3 fields"),
        (
            "a.csv",
            "label,text\npos,good,\nneg,bad,\n",
            r"line 2 .* Found 3 fields\. A separator at the end of a line sta",
        ),
        ("a.csv", "label,text\npos,good\nneg\n", r"line 3 should have 2 fields .* Found 1 field\.$"),
        (
            "a.tsv",
            "label\ttext\npos\tgood\t\n",
            "line 2 should have 2 fields .* Found 3 fields. A separator at the end",
        ),
        ("a.tsv", "label\ttext\npos\tgood\tfilm\n", r"line 2 should have 2 fields .* Found 3 fields\.$"),
        ("a.csv", 'label,text\npos,"a\nb"\n\nneg,bad,film\n', "line 5 should have 2 fields .* Found 3"),
        ("a.csv", "label,text\r\npos,good\r\nneg,bad,film\r\n", "line 3 should have 2 fields .* Found 3"),
        ("a.csv", "label,text\rpos,good\rneg,bad,film\r", "line 3 should have 2 fields .* Found 3"),
        ("a.csv", "label,text\n# a comment\npos,good\n", r"line 2 should have 2 fields .* Found 1 field\.$"),
        (
            "a.csv",
            'label,text\npos,good\nneg,"bad\npos,fine\n',
            "a quotation mark that opens a field in line 3 is never",
        ),
        (
            "a.csv",
            'label,text\npos,"good" film\n',
            "line 2 cannot be split into fields: .* Write a quotation mark inside a quoted",
        ),
        (
            "a.csv",
            "text;label\ngood, film;1\n",
            r"columns of a .csv file should be separated by commas\. Found semicolons"
            r": `text;label`\.$",
        ),
        ("a.csv", "text\tlabel\ngood\t1\n", "separated by commas. Found tabs"),
        ("a.tsv", "text,label\ngood,1\n", r"columns of a .tsv file should be separated by tabs\. Found commas"),
        ("a.csv", "text,text,label\na,b,1\n", "the columns to read should have different names. Found `text` twice"),
        ("a.csv", "text,label\nc\0,1\n", "line 2 should be text without NUL characters"),
        (
            "a.csv",
            "text,label\ngood,1\ncaf\xe9,1\n".encode("cp1252"),
            r"line 3 should be text in UTF-8\. Found: byte 0xe9",
        ),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), "should be text in UTF-8. Found UTF-16"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, name, text, message):
    with pytest.raises(
        ConfigurationError, match=rf"`data_files.train = .*{name}`: {name}: .*{message}|: {name} {message}"
    ):
        read(tmp_path, name, text)


def test_rows_to_predict_are_checked_alike(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a\.csv: line 2 should have 2 fields .* Found 3"):
        read(tmp_path, "a.csv", "id,text\n1,good film, really\n2,bad film\n", "predict")
    with pytest.raises(ConfigurationError, match=r"a\.csv: line 3 is blank\. Remove it, or write `\"\"`"):
        read(tmp_path, "a.csv", "text\na\n\nb\n", "predict")
    assert read(tmp_path, "b.csv", 'text\na\n""\n" "\nb\n\n\n', "predict") == [("a",), ("",), (" ",), ("b",)]


WRITTEN = ["NA", "null", "1e5", "007", "True", "2.50", " 1", "1 ", "-0", "nan", "+1", "1_000", "2024-01-31", "#", ""]


@cases("name", ["a.csv", "a.tsv"])
@cases("texts", [WRITTEN, *([value] * 2 for value in WRITTEN), ["1", "2"], ["1.5", "2.5"]])
def test_texts_stay_as_they_are_written(tmp_path, name, texts):
    separator = "\t" if name == "a.tsv" else ","
    lines = [f"{text}{separator}{number % 2}\n" for number, text in enumerate(texts)]
    rows = read(tmp_path, name, f"text{separator}label\n{''.join(lines)}")
    assert rows == [(text, number % 2) for number, text in enumerate(texts)]


@cases(
    ("fields", "values"),
    [
        (["0", "-1", "12"], [0, -1, 12]),
        (["1.50", "2", "1e3"], [1.5, 2.0, 1000.0]),
        (["00", "01", "10"], ["00", "01", "10"]),
        (["True", "False"], ["True", "False"]),
        (["1", "", "2"], ["1", "", "2"]),
        (["9" * 20, "1"], ["9" * 20, "1"]),
    ],
)
def test_other_columns_are_numbers_where_all_values_are(tmp_path, fields, values):
    rows = read(tmp_path, "a.csv", "text,year\n" + "".join(f"a,{field}\n" for field in fields))
    assert [year for _, year in rows] == values
    assert [type(year) for _, year in rows] == [type(value) for value in values]


@cases(
    ("text", "rows"),
    [
        ("\ufefftext,label\na,x\n", [("a", "x")]),
        ("text,label\r\na,x\r\n\r\n", [("a", "x")]),
        ("text,label\n\na,x\n   \nb,y", [("a", "x"), ("b", "y")]),
        (
            'text,label\n"two\nlines",x\n"a ""b""",y\na "b" c,z\n',
            [("two\nlines", "x"), ('a "b"', "y"), ('a "b" c', "z")],
        ),
        ('text,label\n"a\r\nb",x\n', [("a\r\nb", "x")]),
        ("text,label\n#a,x\n", [("#a", "x")]),
        ("text,label\na\u2028b\x85c,x\n", [("a\u2028b\x85c", "x")]),
        (",text,label\n0,a,x\n1,b,y\n", [(0, "a", "x"), (1, "b", "y")]),
        ("text,label,\na,x,\nb,y,\n", [("a", "x", ""), ("b", "y", "")]),
        ("text,note,note,label\na,1,2,x\n", [("a", 1, 2, "x")]),
        (f"text,label\n{'good ' * 40_000},x\n", [("good " * 40_000, "x")]),
    ],
)
def test_what_is_well_formed_is_read(tmp_path, text, rows):
    assert read(tmp_path, "a.csv", text) == rows
    assert read(tmp_path, "b.csv", gzip.compress(text.encode())) == rows
    assert csv.field_size_limit() == 131_072


def test_files_of_a_split_have_the_same_columns(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\ngood,1\n")
    (tmp_path / "b.csv").write_text("label,text\n01,bad\n")
    (tmp_path / "c.csv").write_text("text,labels\ngood,1\n")
    a, b, c = (str(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv"))
    rows = TextDataModule(data_files={"train": [a, b]}).rows("train")
    assert rows[:] == {"text": ["good", "bad"], "label": ["1", "01"]}
    with pytest.raises(
        ConfigurationError, match=r"c\.csv: the columns should be those of a\.csv, `text`, `label`\. Found"
    ):
        TextDataModule(data_files={"train": [a, c]}).rows("train")


def test_a_folder_that_datasets_looks_through_is_read_alike(tmp_path):
    (tmp_path / "train.csv").write_text("label,text\npos,007\nneg,008\n")
    (tmp_path / "dev.csv").write_text("label,text\npos,good film, really\nneg,bad\n")
    with pytest.raises(ConfigurationError, match=r"dev\.csv: line 2 should have 2 fields"):
        TextDataModule(str(tmp_path)).rows("train")
    (tmp_path / "dev.csv").write_text("label,text\npos,good film\nneg,bad\n")
    data = TextDataModule(str(tmp_path))
    assert data.rows("train")["text"][:] == ["007", "008"]
    assert data.rows("validation")["text"][:] == ["good film", "bad"]


def test_settings_of_a_folder_are_left_to_datasets(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("label,text\npos,good film, really\nneg,bad\n")
    (tmp_path / "README.md").write_text("# My data\n")
    with pytest.raises(ConfigurationError, match=r"train\.csv: line 2 should have 2 fields"):
        TextDataModule(str(tmp_path)).rows("train")
    settings = {"config_name": "default", "data_files": "data/train.csv", "sep": ";"}
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- {settings}\n---\n")
    (tmp_path / "data" / "train.csv").write_text("label;text\npos;good film, really\nneg;bad\n")
    assert TextDataModule(str(tmp_path)).rows("train")["text"][:] == ["good film, really", "bad"]


def test_a_changed_file_is_read_again(tmp_path):
    for text in ("good", "bad"):
        assert read(tmp_path, "a.csv", f"text,label\n{text},1\n") == [(text, 1)]
