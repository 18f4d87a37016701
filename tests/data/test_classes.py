"""Classes are the distinct labels, and predictions name them as they were written."""

import json
import logging
import unicodedata
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from lightning_sparsegrad.data import RankingsDataModule, TextDataModule, WordsDataModule
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import write


def table(path: Path, labels: list[Any]) -> str:
    """Write labels with their types, or as text in a text file."""
    texts = [f"film {index}" for index in range(len(labels))]
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in zip(texts, labels, strict=True)))
    elif path.suffix == ".jsonl":
        rows = [{"text": a, "label": b} for a, b in zip(texts, labels, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write(path, text=texts, label=labels)
    return str(path)


def module(tmp_path: Path, tokenizer: str, name: str, train: list[Any], test: Any = None, **options: Any) -> Any:
    files = {"train": table(tmp_path / f"train{name}", train)}
    files["test"] = table(tmp_path / f"test{name}", train if test is None else test)
    return TextDataModule(data_files=files, tokenizer=tokenizer, batch_size=64, **options)


def ids_of(data: Any) -> list[Any]:
    (batch,) = data.test_dataloader()
    encoded_labels: list[Any] = batch["labels"].tolist()
    return encoded_labels


CSV, JSONL, PARQUET = ".csv", ".jsonl", ".parquet"
DAYS = [date(2024, 1, 31), date(2023, 12, 1)]


@cases(
    ("name", "labels", "names"),
    [
        *((name, [1, 2, 3, 4, 5], ["1", "2", "3", "4", "5"]) for name in (CSV, JSONL, PARQUET)),
        *((name, [205, 101], ["101", "205"]) for name in (CSV, JSONL, PARQUET)),
        *((name, [1, -1], ["-1", "1"]) for name in (CSV, JSONL, PARQUET)),
        *((name, [10, 2, 1], ["1", "2", "10"]) for name in (CSV, JSONL, PARQUET)),
        *((name, [1, 0, 2], ["0", "1", "2"]) for name in (CSV, JSONL, PARQUET)),
        *((name, [True, False], ["False", "True"]) for name in (CSV, JSONL, PARQUET)),
        (CSV, ["true", "false"], ["false", "true"]),
        *((name, ["01", "00", "10"], ["00", "01", "10"]) for name in (CSV, JSONL, PARQUET)),
        (CSV, [f" {index}" for index in range(11)], [f" {index}" for index in range(11)]),  # ids of 0.1
        *((name, ["10", "2", "1"], ["1", "10", "2"]) for name in (JSONL, PARQUET)),  # text, in the order of 0.1
        *((name, ["2024-01-31", "2023-12-01"], ["2023-12-01", "2024-01-31"]) for name in (CSV, JSONL)),
        (PARQUET, DAYS, ["2023-12-01", "2024-01-31"]),
        (PARQUET, [Decimal(10), Decimal(9)], ["9", "10"]),
        *((name, ["pos ", "neg"], ["neg", "pos "]) for name in (CSV, JSONL, PARQUET)),
        *((name, ["e\u0301", "\u00ea"], ["e\u0301", "\u00ea"]) for name in (CSV, JSONL)),
        (CSV, ["1", "2", "unknown"], ["1", "2", "unknown"]),
        (CSV, ["1e5", "x", "NA"], ["1e5", "NA", "x"]),
        (CSV, ["9" * 20, "1" * 20], ["1" * 20, "9" * 20]),
    ],
)
def test_any_labels_are_classes(tmp_path, tokenizer, name, labels, names):
    data = module(tmp_path, tokenizer, name, labels * 2)
    assert data.label_names == names
    written = [str(label) for label in labels]
    assert ids_of(data) == [names.index(label) for label in written] * 2
    predicted = data.decode({"predictions": torch.arange(len(names))}, {})
    assert sorted(predicted) == sorted(written)


@cases(
    ("name", "labels", "names", "ids"),
    [
        *((name, [1, 4, 2], ["1", "2", "3", "4", "5"], [0, 3, 1]) for name in (CSV, JSONL, PARQUET)),
        *((name, [205, 101], ["205", "101"], [0, 1]) for name in (CSV, JSONL, PARQUET)),
        *((name, [1, -1], ["1", "-1"], [0, 1]) for name in (CSV, JSONL, PARQUET)),
        *((name, [1, 0], ["bad", "good"], [1, 0]) for name in (CSV, JSONL, PARQUET)),
        *((name, [1, 0], ["0", "1", "2"], [1, 0]) for name in (CSV, JSONL, PARQUET)),
        *((name, [True, False], ["True", "False"], [0, 1]) for name in (CSV, JSONL, PARQUET)),
        *((name, [True, False], ["true", "false"], [0, 1]) for name in (JSONL, PARQUET)),
        *((name, [True, False], ["no", "yes"], [1, 0]) for name in (JSONL, PARQUET)),
        (CSV, ["1", "2", "none"], ["none", "1", "2"], [1, 2, 0]),
        *((name, [1, 2], ["none", "1", "2"], [1, 2]) for name in (CSV, JSONL, PARQUET)),
        *((name, ["pos ", "pos"], ["pos", "pos "], [1, 0]) for name in (CSV, JSONL, PARQUET)),
        *((name, [1, 2], [2, 1], [1, 0]) for name in (CSV, JSONL, PARQUET)),
        *((name, [2.0, 1.5], ["1.5", "2.0"], [1, 0]) for name in (CSV, JSONL, PARQUET)),
        (CSV, ["2.50", "1.00"], ["1.00", "2.50"], [1, 0]),
    ],
)
def test_names_are_those_of_the_labels_where_they_are_written_alike(tmp_path, tokenizer, name, labels, names, ids):
    data = module(tmp_path, tokenizer, name, labels, label_names=names)
    assert data.label_names == [str(each) for each in names]
    assert ids_of(data) == ids


@cases(
    ("name", "train", "test", "message"),
    [
        (
            CSV,
            [1, 2],
            ["a", "a"],
            r"split `test` should be among `'1'`, `'2'`, unless `label_names` lists more\. Found `'a'`\.$",
        ),
        (
            CSV,
            [1, 2],
            ["", ""],
            r"split `test` should be among `'1'`, `'2'`, unless `label_names` lists more\. Found `''`\.$",
        ),
        (CSV, [1, 2], ["1", ""], r"should be among `'1'`, `'2'`, unless `label_names` lists more\. Found `''`\.$"),
        (CSV, [0, 1], ["1", ""], r"should be among `'0'`, `'1'`, unless `label_names` lists more\. Found `''`\.$"),
        (CSV, [1, 2], [2, 3], r"should be among `'1'`, `'2'`, unless `label_names` lists more\. Found `3`\.$"),
        (
            CSV,
            [1, 2],
            ["1.0", "2.5"],
            r"should be among `'1'`, `'2'`, unless `label_names` lists more\. Found `1.0`, `2.5`\.",
        ),
        (
            CSV,
            ["01", "02"],
            [1, 2],
            r"should be among `'01'`, `'02'`, unless `label_names` lists more\. Found `1`, `2`\. Near matches: `01`\.$",
        ),
        (
            CSV,
            [1, 2],
            [-1, -1],
            r"Found `-1`\. -1 marks labels that were not published: use this split as `predict`\.$",
        ),
        (JSONL, [1, 2], [None, 1], r"should be among `'1'`, `'2'`, unless `label_names` lists more\. Found `None`\.$"),
        (
            PARQUET,
            [1, 2],
            [1.0, 2.0],
            r"should be among `'1'`, `'2'`, unless `label_names` lists more\. Found `1.0`, `2.0`\.",
        ),
        (
            CSV,
            ["True", "False"],
            ["true", "false"],
            r"should be among `'False'`, `'True'`, unless `label_names` lists more\. Found `'true'`, `'false'`",
        ),
        (
            CSV,
            ["pos", "neg"],
            ["pos ", "neg"],
            r"Found `'pos '`\. It differs from `pos` only in spaces or in the normal form",
        ),
        (
            JSONL,
            ["\u00e9", "x"],
            ["e\u0301"],
            r"Found `'e\\u0301'`\. It differs from `\u00e9` only in spaces or in the normal",
        ),
    ],
)
def test_an_unseen_label_is_named(tmp_path, tokenizer, name, train, test, message):
    data = module(tmp_path, tokenizer, name, train * 2, test)
    with pytest.raises(ConfigurationError, match=message):
        data.setup("test")
    data.dataset("train")


def test_minus_one_is_a_class_where_train_has_it(tmp_path, tokenizer):
    assert ids_of(module(tmp_path, tokenizer, CSV, [-1, 1], [-1, -1])) == [0, 0]


@cases(
    ("name", "labels", "message"),
    [
        (
            CSV,
            ["pos", "pos ", "neg"],
            r"should not differ only in spaces .*, unless `label_names` .* Found `'pos'`, `'pos '`",
        ),
        (
            JSONL,
            [unicodedata.normalize(form, "\u00e9") for form in ("NFC", "NFD")],
            r"should not differ only in .* normal form of Unicode .* Found `'\u00e9'`, `'e\\u0301'`",
        ),
        (CSV, ["1", "01", "2"], r"should not be equal as numbers, .* Found `'1'`, `'01'`"),
        (CSV, ["1", "2", "NA"], r"should all be numbers, or all be names.* Found `'NA'` among numbers"),
        (CSV, ["1.5", "2", "x"], r"should all be numbers, or all be names.* Found `'x'` among numbers"),
        (CSV, [3, 3, 3], r"should have at least two classes\. Found `'3'`\."),
        (PARQUET, [b"a", b"b"], r"should be integers, text or floats\. Found `binary`"),
        (PARQUET, [{"a": 1}, {"a": 2}], r"should be integers, text or floats\. Found `\{"),
        (CSV, [1.5, 2.5], None),
    ],
)
def test_labels_that_are_hard_to_tell_apart_are_refused(tmp_path, tokenizer, name, labels, message):
    data = module(tmp_path, tokenizer, name, labels)
    if message is None:
        assert data.num_labels == 1
    else:
        with pytest.raises(ConfigurationError, match=message):
            _ = data.num_labels


def test_names_alone_are_enough(tmp_path):
    """The names stored in a checkpoint, by which labels of any file are read."""
    for names, values in ((("1", "2", "5"), [5, 1]), (("1", "2", "5"), ["5", "1"]), (("a", "b", "c"), [2, 0])):
        feature = Value("string" if isinstance(values[0], str) else "int64")
        assert LabelSpace("label", names).ids(feature, values, "test") == {values[0]: 2, values[1]: 0}
    rows = Dataset.from_dict({"text": ["a", "b"], "label": ["1.5", "02"]})
    assert LabelSpace("label").encode(rows, "test")["labels"][:] == [1.5, 2]


def test_class_labels_keep_their_order(tmp_path, tokenizer):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["5", "1"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).to_parquet(tmp_path / "a.parquet")
    files = {"train": str(tmp_path / "a.parquet"), "test": table(tmp_path / "b.csv", [1, 5])}
    data = TextDataModule(data_files=files, tokenizer=tokenizer)
    assert data.label_names == ["5", "1"]
    assert ids_of(data) == [1, 0]


def test_tags_of_words_may_be_any_integers(tmp_path):
    path = write(tmp_path / "a.jsonl", words=[["a", "b"], ["c"]], tags=[[30, 7], [100]])
    data = WordsDataModule(data_files={"train": path}, tokenizer="none")
    assert data.label_names == ["7", "30", "100"]


def test_whole_numbers_are_said_to_be_classes(tmp_path, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        assert module(tmp_path, tokenizer, CSV, [90, 15, 55]).num_labels == 3
    sentence = (
        "are whole numbers and are read as 3 classes, `'15'`, `'55'`, `'90'`. For regression, set `problem=regression`."
    )
    assert sentence in caplog.text
    caplog.clear()
    assert module(tmp_path, tokenizer, CSV, [0, 1, 2]).num_labels == 3
    assert module(tmp_path, tokenizer, CSV, [90, 15], problem="classification").num_labels == 2
    assert not caplog.text


# ---------------------------------------------------------------- regression, and classes, when asked for
@cases(
    ("name", "labels", "targets"),
    [
        *((name, [90, 15, 55], [90.0, 15.0, 55.0]) for name in (CSV, JSONL, PARQUET)),
        *((name, [0, 1, 2], [0.0, 1.0, 2.0]) for name in (CSV, JSONL, PARQUET)),
        *((name, [1.5, 2, 0], [1.5, 2.0, 0.0]) for name in (CSV, JSONL)),
        (CSV, ["05", "10", " 7"], [5.0, 10.0, 7.0]),
        (PARQUET, ["0.5", "10"], [0.5, 10.0]),
        (PARQUET, [Decimal("1.50"), Decimal("2.25")], [1.5, 2.25]),
        (PARQUET, [True, False], [1.0, 0.0]),
        (CSV, [7, 7], [7.0, 7.0]),
    ],
)
def test_whole_numbers_are_targets_when_asked(tmp_path, tokenizer, name, labels, targets):
    data = module(tmp_path, tokenizer, name, labels, problem="regression")
    assert (data.num_labels, data.label_names) == (1, [])
    (batch,) = data.test_dataloader()
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == targets


@cases(
    ("name", "labels", "names"),
    [
        *((name, [1.0, 10.0, 2.0], ["1.0", "2.0", "10.0"]) for name in (CSV, JSONL, PARQUET)),
        (CSV, ["2.50", "10.00", "1"], ["1", "2.50", "10.00"]),
        (CSV, ["1", "2", "NA"], ["1", "2", "NA"]),
        *((name, [10, 9], ["9", "10"]) for name in (CSV, JSONL, PARQUET)),
        (JSONL, ["10", "9"], ["9", "10"]),
        (PARQUET, [Decimal("1.50"), Decimal("10.25")], ["1.50", "10.25"]),
    ],
)
def test_numbers_are_classes_when_asked(tmp_path, tokenizer, name, labels, names):
    data = module(tmp_path, tokenizer, name, labels, problem="classification")
    assert data.label_names == names
    assert ids_of(data) == [names.index(str(label)) for label in labels]


@cases(
    ("name", "labels", "options", "message"),
    [
        (CSV, ["a", "b"], {"problem": "regression"}, r"split `train` should be finite numbers .* Found `'a'`, `'b'`\."),
        (CSV, ["1", ""], {"problem": "regression"}, r"split `train` should be finite numbers .* Found `''`\."),
        (PARQUET, DAYS, {"problem": "regression"}, r"should be numbers, as `problem` says,\. Found `date32`"),
    ],
)
def test_what_is_no_number_is_no_target(tmp_path, tokenizer, name, labels, options, message):
    with pytest.raises(ConfigurationError, match=message):
        module(tmp_path, tokenizer, name, labels, **options).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"problem": "regression", "label_names": ["a", "b"]},
            "`label_names` should be left out for a regression. Found",
        ),
        (
            {"problem": "regresion"},
            r"`problem` should be one of .* Found `problem = 'regresion'`\. Near matches: `regress",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        TextDataModule("a/b", **options)


def test_grades_may_be_learnt_as_numbers(tmp_path):
    path = write(tmp_path / "a.csv", query=["a", "a"], title=["b", "c"], label=[1, 5])
    given: Any = {"data_files": {"train": path}, "text_columns": ["query", "title"]}
    assert RankingsDataModule(**given).label_names == ["1", "5"]
    assert RankingsDataModule(**given, problem="regression").num_labels == 1
