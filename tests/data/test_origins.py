import logging
import re
import socket
from typing import Any

import datasets
import pytest

from lightning_sparsegrad.data import TextDataModule, ValenceDataModule
from lightning_sparsegrad.data._origins import load_files, resolve_files
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import write


@cases(
    ("arguments", "message"),
    [
        ({}, "One of the parameters `dataset` and `data_files` should be given"),
        ({"dataset": "a/b", "data_files": {"train": "a.csv"}}, "One of the parameters `dataset` and `data_files`"),
        ({"data_files": {"train": "none.csv"}}, r"Data files should exist\. Found `data_files.train = 'none.csv'`\."),
        ({"data_files": {"train": "none.txt"}}, r"should end in \.csv, \.tsv, .*Found `data_files.train = 'none.txt'`"),
        ({"data_files": {"train": []}}, "should name a file for split `train`"),
        ({"data_files": {"train": "x.csv"}, "revision": "v1"}, "`revision` should be left out beside `data_files`"),
        ({"dataset": "./nowhere"}, r"`dataset` should be an existing folder\. Found `dataset = './nowhere'`\."),
        ({"dataset": "package:vaderSentiment/vaderSentiment/vader_lexicon.txt"}, "give files as `data_files`"),
        ({"dataset": ".", "revision": "v1"}, "`revision` should be left out for a local folder"),
        ({"dataset": "a/b", "splits": {"valid": "dev"}}, r"Found `valid`\. Near matches: `validation`"),
        (
            {"dataset": "a/b", "text_columns": ["a", "b", "c"]},
            "`text_columns` should be one column or two different ones",
        ),
        ({"dataset": "a/b", "text_columns": []}, "`text_columns` should be one column or two different ones"),
        ({"dataset": "a/b", "label_column": "text"}, "`label_column` should differ from `text_columns`"),
        ({"dataset": "a/b", "label_names": ["one"]}, "`label_names` should be two or more different names"),
        ({"dataset": "a/b", "label_names": ["one", "one"]}, "`label_names` should be two or more different names"),
        ({"dataset": "a/b", "validation_fraction": 1.0}, "Found `validation_fraction = 1.0`"),
        ({"dataset": "a/b", "validation_fraction": float("nan")}, "Found `validation_fraction = nan`"),
        (
            {"dataset": "a/b", "max_length": 0},
            r"^Parameter `max_length` should be at least 1\. Found `max_length = 0`\.$",
        ),
        ({"dataset": "a/b", "batch_size": -1}, "Found `batch_size = -1`"),
        ({"dataset": "a/b", "eval_batch_size": 0}, "Found `eval_batch_size = 0`"),
        ({"dataset": "a/b", "max_samples": 0}, "Found `max_samples = 0`"),
        ({"dataset": "a/b", "pad_to_multiple_of": 0}, "Found `pad_to_multiple_of = 0`"),
        ({"dataset": "a/b", "num_workers": -1}, "`num_workers` should be at least 0"),
        ({"dataset": "a/b", "seed": -1}, "`seed` should be at least 0"),
        ({"dataset": "a/b", "seed": 2**32}, "`seed` should be at most 4294967295"),
        ({"dataset": "a/b", "split_seed": -1}, "`split_seed` should be at least 0"),
        ({"dataset": "a/b", "split_seed": None}, "`split_seed` should be at least 0"),
        ({"dataset": "a/b", "num_workers": 100_000}, r"`num_workers` should be at most \d+\. Found .* = 100000`"),
        ({"dataset": "a/b", "batch_size": 10**12}, "`batch_size` should be at most 2147483647"),
        ({"dataset": "a/b", "max_length": 10**12}, "`max_length` should be at most 2147483647"),
        ({"dataset": "a/b", "pad_to_multiple_of": 10**9}, "`pad_to_multiple_of` should be at most 128"),
        ({"dataset": "a/b", "text_columns": ["a", "a"]}, "`text_columns` should be one column or two different ones"),
        ({"dataset": "a/b", "splits": {}}, "`splits` should name a split"),
        ({"dataset": "a/b", "splits": {1: "train"}}, "keys of `splits` should be .* Found `1`"),
        ({"data_files": {1: "a.csv"}}, "keys of `data_files` should be .* Found `1`"),
        ({"data_files": {"train": "a" * 300 + ".csv"}}, "Data files should exist"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        TextDataModule(**arguments)


def test_an_empty_file_and_mixed_formats_are_refused(tmp_path, files):
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(ConfigurationError, match=r"should not be empty\. Found `data_files.test = '.*empty.csv'`"):
        TextDataModule(data_files={**files, "test": str(empty)})
    other = write(tmp_path / "other.jsonl", text=["a"], label=[1])
    with pytest.raises(
        ConfigurationError, match=r"of one split should have the same extension\. .*other.jsonl'` after `train.csv`"
    ):
        TextDataModule(data_files={"train": [files["train"], other]})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.tsv", 'text\tlabel\n"So\t0\nhe said "yes"\t1\n"quoted"\t0\n', ['"So', 'he said "yes"', '"quoted"']),
        ("a.csv", 'text,label\n"a, b",0\n"two\nlines",1\n"a ""b""",0\n', ["a, b", "two\nlines", 'a "b"']),
    ],
)
def test_quotation_marks_enclose_fields_between_commas_only(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    rows = load_files(resolve_files({"train": str(tmp_path / name)}))["train"]
    assert rows["text"][:] == expected
    assert rows["label"][:] == [0, 1, 0]


def test_a_file_that_cannot_be_parsed_is_named(tmp_path):
    path = tmp_path / "bad.parquet"
    path.write_text("{")
    data = TextDataModule(data_files={"train": str(path)})
    with pytest.raises(
        ConfigurationError, match=r"should be readable as parquet\. Found `data_files.train = .*bad.parquet`"
    ):
        _ = data.num_labels


@pytest.mark.parametrize("names", [["a", "b"], ["b", "a"]])
def test_parquet_files_of_a_split_have_the_same_columns(tmp_path, names):
    rows: dict[str, dict[str, Any]] = {
        "a": {"text": ["sun"], "label": ["x"]},
        "b": {"text": ["moon"], "label": ["y"], "more": [1]},
    }
    paths = [write(tmp_path / f"{name}.parquet", **rows[name]) for name in names]
    data = TextDataModule(data_files={"train": paths})
    with pytest.raises(ConfigurationError, match=rf"{names[1]}\.parquet: the columns should be those of {names[0]}\."):
        data.rows("train")


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(monkeypatch):
    asked, resolve = [], socket.getaddrinfo

    def ask(host: str, *arguments: Any, **named: Any) -> Any:
        asked.append(host)
        return resolve(host, *arguments, **named)

    monkeypatch.setattr("socket.getaddrinfo", ask)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    data = TextDataModule("nobody/nothing", dataset_config="en")
    with pytest.raises(ConfigurationError) as caught:
        _ = data.num_labels
    assert set(asked) == {"127.0.0.1"}
    assert len(asked) <= 3  # the hub's own client, which tries again, asks more than twice as often
    assert "Found `dataset = 'nobody/nothing'`, `dataset_config = 'en'`: " in str(caught.value)
    assert re.search(r"Without a network pass a folder: `hf download .* nobody/nothing`", str(caught.value))
    assert "\n" not in str(caught.value)
    assert not datasets.config.HF_HUB_OFFLINE


def test_local_files_are_read_without_a_network(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    path = write(tmp_path / "rows.csv", text=["a", "b"], label=[0, 1])
    assert len(load_files(resolve_files({"train": path}))["train"]) == 2
    assert len(ValenceDataModule().rows("test")) == 719
    assert not asked
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_file_that_is_read_twice_is_said(files, monkeypatch, caplog):
    with pytest.warns(UserWarning, match=r"The rows of `.*train.csv` occur more than once in `data_files.train`"):
        TextDataModule(data_files={"train": [files["train"], files["train"]]})
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    caplog.set_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero")
    TextDataModule(data_files=files)
    assert not caplog.messages
    TextDataModule(data_files={"train": files["train"], "validation": files["train"]})
    assert "Split `validation` measures memorization" in caplog.messages[0]
