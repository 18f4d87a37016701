"""json and jsonl files are read literally, or refused with the number of the line."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, List, Value

from lightning_sparsegrad.data import TextDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases


def rows_of(
    tmp_path: Path, text: str | bytes, split: str = "train", name: str = "a.jsonl", **arguments: Any
) -> Dataset:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return TextDataModule(data_files={split: str(path)}, **arguments).rows(split)


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


A, B = {"text": "a", "label": "x"}, {"text": "b", "label": "y"}


@cases(
    ("text", "message"),
    [
        (
            lines(A, {"text": "b", "lable": "y"}),
            r"line 2 should have `label`, as a\.jsonl: line 1 has\. Found `text`, `l",
        ),
        (lines(A, A, {"label": "y"}), "line 3 should have `text`, as .* line 1 has. Found `label`"),
        (lines({"txt": "a", "label": "x"}, A), "line 1 should have `text`, as .* line 2 has. Found `txt`, `label`"),
        (lines(A, ["b", "y"]), r"line 2 should have an object\. Found `\[\"b\", \"y\"\]`"),
        (lines(A, "b"), 'line 2 should have an object. Found `"b"`'),
        (lines(A, None), "line 2 should have an object. Found `null`"),
        ("\nnull\n", "line 2 should have an object. Found `null`"),
        (f"[null, {json.dumps(A)}]", "line 1 should have an object. Found `null`"),
        (f"[{json.dumps(A)},\n 3]", "line 2 should have an object. Found `3`"),
        ('["a", "b"]', 'line 1 should have an object. Found `"a"`'),
        (
            lines(A, {"text": {"de": "b"}, "label": "y"}),
            "line 2 should have a text as `text`, as .* Found an object: `{",
        ),
        (lines(A, {"text": ["b"], "label": "y"}), "line 2 should have a text as `text`, as .* Found a list"),
        (lines(A, {"text": "b", "label": 1}), "line 2 should have a text as `label`, as .* Found a number: `1`"),
        (
            lines({**A, "label": 1}, {**B, "label": True}),
            "line 2 should have a number as `label`.* Found true or false",
        ),
        ('{"text": "a", "label": "x", "label": "y"}\n', "an object that begins in line 1 has the key `label` twice"),
        (lines(A) + '{"text": "b", "label"}\n', "line 2 is not valid JSON: Expecting"),
        (lines(A) + '{"text": "b", "label": "y"\n', "line 2 is not valid JSON: Expecting"),
        (f"[{json.dumps(A)},\n{json.dumps(B)}", "line 2 is not valid JSON: "),
        (f"[{json.dumps(A)}\n{json.dumps(B)}]", "line 2 is not valid JSON: Expecting `,`"),
        (f"[{json.dumps(A)}]\n]", "line 2 is not valid JSON: Extra data"),
        (lines(A) + '{"text": "\\ud83d", "label": "y"}\n', "line 2 should have text as `text`. Found half a character"),
        (lines(A, {**B, "label": 2**70}), "line 2 should have a text as `label`"),
        (lines({**A, "label": 1}, {**B, "label": 2**70}), "line 2 should have numbers of at most 64 bits as `label`"),
        (
            lines({**A, "tags": [1]}, {**B, "tags": ["O"]}),
            "line 2 should have the same types in `tags` as the rows bef",
        ),
        (
            lines(A).encode() + b'{"text": "caf\xe9", "label": "y"}\n',
            r"line 2 should be text in UTF-8\. Found: byte 0xe9",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=rf"readable as json\. Found .*: a\.jsonl: .*{message}"):
        rows_of(tmp_path, text)


@cases(
    ("text", "rows"),
    [
        (lines(A, B), [A, B]),
        ("\ufeff" + lines(A) + "\n\r\n" + lines(B), [A, B]),
        (json.dumps([A, B], indent=2), [A, B]),
        (json.dumps(A, indent=2) + "\n" + json.dumps(B, indent=2), [A, B]),
        (json.dumps(A), [A]),
        (lines({**A, "note": None}, {**B, "note": 3}), [{**A, "note": None}, {**B, "note": 3}]),
        (lines(A, {**B, "note": "n"}), [{**A, "note": None}, {**B, "note": "n"}]),
        (lines({**A, "at": [{"x": 1}]}, {**B, "at": []}), [{**A, "at": [{"x": 1}]}, {**B, "at": []}]),
        (lines({**A, "score": 1}, {**B, "score": 2.5}), [{**A, "score": 1.0}, {**B, "score": 2.5}]),
        *(
            (lines({"text": text, "label": 0}), [{"text": text, "label": 0}])
            for text in ("2024-01-31", "007", "1e5", "NA", "null", "True", "", " a ", "\u2028")
        ),
        ("", []),
    ],
)
@cases("name", ["a.json", "a.jsonl"])
def test_values_stay_as_they_are_written(tmp_path, text, rows, name):
    if rows:
        assert list(rows_of(tmp_path, text, name=name)) == rows
    else:
        with pytest.raises(ConfigurationError, match="Split `train` should not be empty"):
            rows_of(tmp_path, " \n", name=name)


def test_types_are_those_of_all_rows(tmp_path):
    rows = [{**A, "tags": []} for _ in range(2500)]
    rows[2400] = {**B, "tags": ["O"]}
    assert rows_of(tmp_path, lines(*rows)).features["tags"] == List(Value("string"))


def test_rows_to_predict_may_lack_labels(tmp_path):
    assert rows_of(tmp_path, lines(A, {"text": "b"}), "predict")["text"][:] == ["a", "b"]
