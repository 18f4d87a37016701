import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from lightning.pytorch.cli import LightningArgumentParser

from lightning_sparsegrad.data import TextDataModule, ValenceDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import LABELS, SENTENCES, loaded, write


@cases(
    ("values", "ids", "names"),
    [
        (["no", "yes", "maybe", "no"], [1, 2, 0, 1], ["maybe", "no", "yes"]),
        ([1, 0, 2, 1], [1, 0, 2, 1], ["0", "1", "2"]),
        ([True, False, True, True], [1, 0, 1, 1], ["False", "True"]),
        (["1", "0", "1", "1"], [1, 0, 1, 1], ["0", "1"]),
        ([0.5, 2.0, -1.5, 3.0], [0.5, 2.0, -1.5, 3.0], []),
    ],
)
def test_labels_become_ids_or_stay_floats(tmp_path, tokenizer, values, ids, names):
    path = write(tmp_path / "rows.parquet", text=SENTENCES[:4], label=values)
    data = TextDataModule(data_files={"train": path, "validation": path}, tokenizer=tokenizer)
    assert data.num_labels == (len(names) or 1)
    assert data.label_names == names
    labels = next(iter(data.val_dataloader()))["labels"]
    assert labels.dtype == (torch.int64 if names else torch.float32)
    assert labels.tolist() == ids


def test_class_labels_of_a_local_folder_keep_their_names(tmp_path, tokenizer):
    folder = tmp_path / "data"
    folder.mkdir()
    features = Features({"sentence": Value("string"), "labels": ClassLabel(names=["down", "up"])})
    source = Dataset.from_dict({"sentence": SENTENCES, "labels": LABELS}, features=features)
    for split in ("train", "validation", "test"):
        source.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    data = TextDataModule(str(folder), tokenizer=tokenizer, text_columns="sentence", label_column="labels")
    assert data.label_names == ["down", "up"]
    assert next(iter(data.test_dataloader()))["labels"].tolist() == LABELS
    assert "labels" not in next(iter(data.predict_dataloader()))  # the test split, where no other is there to predict


def test_label_names_give_the_order_and_the_classes_without_an_example(tmp_path, tokenizer):
    path = write(tmp_path / "rows.csv", text=["a", "of"], label=["good", "bad"])
    names = ["good", "fair", "bad"]
    data = TextDataModule(data_files={"train": path}, tokenizer=tokenizer, label_names=names, splits={"test": "train"})
    assert data.num_labels == 3
    assert next(iter(data.test_dataloader()))["labels"].tolist() == [0, 2]


def test_names_that_look_like_numbers_in_one_file_only_stay_names(tmp_path, tokenizer):
    files = {
        "train": write(tmp_path / "a.csv", text=["a", "of", "the"], label=["1", "none", "other"]),
        "test": write(tmp_path / "b.csv", text=["a"], label=["1"]),
    }
    data = TextDataModule(data_files=files, tokenizer=tokenizer)
    assert next(iter(data.test_dataloader()))["labels"].tolist() == [0]


def test_num_labels_needs_no_tokenizer_and_links_to_the_model_in_lightning_cli(files):
    class Model(torch.nn.Module):
        def __init__(self, num_labels: int) -> None:
            super().__init__()
            self.num_labels = num_labels

    parser = LightningArgumentParser()
    parser.add_argument("--data", type=TextDataModule)
    parser.add_class_arguments(Model, "model")
    parser.link_arguments("data", "model.num_labels", compute_fn=lambda data: data.num_labels, apply_on="instantiate")
    arguments = ["--data=TextDataModule", f"--data.data_files={json.dumps(files)}", "--data.batch_size=4"]
    built = parser.instantiate(parser.parse_args([*arguments, "--data.splits.train=validation"]))
    assert built.model.num_labels == 2
    assert built.data.batch_size == 4


@pytest.mark.parametrize("kind", [TextDataModule, ValenceDataModule])
def test_every_argument_of_the_bases_is_on_the_command_line(kind):
    parser = LightningArgumentParser()
    parser.add_class_arguments(kind, "data")
    text = parser.format_help()
    for name in ("tokenizer", "max_length", "batch_size", "eval_batch_size", "num_workers", "max_samples", "seed"):
        assert f"--data.{name} " in text
    assert ("--data.text_columns" in text) == (kind is TextDataModule)
    assert "The number of tokens that a row is truncated to" in re.sub(r"\s+", " ", text)


@cases(
    ("label", "message"),
    [
        ([0, 2], r"split `test` should be integers from 0 to 1, unless `label_names` lists more\. Found `2`\.$"),
        ([0, -2], r"should be integers from 0 to 1, unless `label_names` lists more\. Found `-2`\.$"),
        ([-1, -1], r"Found `-1`\. -1 marks labels that were not published: use this split as `predict`\.$"),
        ([0, 1.5], r"should be integers from 0 to 1, unless `label_names` lists more\. Found `0.0`, `1.5`\.$"),
        ([0, None], r"should be integers from 0 to 1, unless `label_names` lists more\. Found `None`\.$"),
        (["0", "2"], r"should be among `'0'`, `'1'`, unless `label_names` lists more\. Found `'2'`\.$"),
    ],
)
def test_labels_out_of_range_are_refused(tmp_path, tokenizer, label, message):
    data = loaded(tmp_path, tokenizer, "test", label=label)
    with pytest.raises(ConfigurationError, match=message):
        data.setup("test")
    data.setup("fit")  # the test split is not looked at before it is used


@cases(
    ("label", "message"),
    [
        ([0, 0, 0], r"should have at least two classes\. Found `'0'`\."),
        ([None, None, None], r"should be integers, text or floats\. Found `null`\."),
        ([[0], [1], [1]], r"should be integers, text or floats\. Found `List"),
        (["0.5", "nan", "1.5"], r"should all be numbers, or all be names.* Found `'nan'` among numbers\."),
        (["0", "", "1"], r"should all be numbers, or all be names.* Found `''` among numbers\."),
    ],
)
def test_values_that_are_no_labels_are_refused(tmp_path, tokenizer, label, message):
    data = loaded(tmp_path, tokenizer, label=label)
    with pytest.raises(ConfigurationError, match=message):
        _ = data.num_labels


@cases("value", [float("nan"), float("inf"), None, 1e300, -1e19])
def test_regression_targets_should_be_finite(tmp_path, tokenizer, value):
    data = loaded(tmp_path, tokenizer, label=[0.5, value])
    assert data.num_labels == 1
    with pytest.raises(ConfigurationError, match=re.escape(f"Found `{value}`.")):
        data.setup("fit")


def test_an_unseen_name_lists_near_matches(tmp_path, tokenizer):
    files = {
        "train": write(tmp_path / "a.csv", text=["a", "of"], label=["good", "bad"]),
        "validation": write(tmp_path / "b.csv", text=["a"], label=["goood"]),
    }
    data = TextDataModule(data_files=files, tokenizer=tokenizer)
    with pytest.raises(ConfigurationError, match=r"split `validation` .* Found `'goood'`\. Near matches: `good`"):
        data.setup("fit")


def test_floats_are_refused_where_names_are_given(tmp_path):
    path = write(tmp_path / "a.parquet", text=["a", "of"], label=[0.5, 1.0])
    data = TextDataModule(data_files={"train": path}, label_names=["no", "yes"])
    with pytest.raises(
        ConfigurationError, match=r"should be integers or text, as `label_names` says,.*Found `float64`"
    ):
        _ = data.num_labels


# ---------------------------------------------------------------- splits that name the classes differently
def classes(path: Path, names: list[str], ids: list[int]) -> str:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_dict({"text": SENTENCES[: len(ids)], "label": ids}, features=features).to_parquet(path)
    return str(path)


def train_and_test(tmp_path: Path, tokenizer: str, train: Any, test: Any, **kwargs: Any) -> TextDataModule:
    """Each split has the names of a `ClassLabel` with its ids, or a list of labels."""
    files = {}
    for split, given in (("train", train), ("test", test)):
        path = tmp_path / f"{split}.parquet"
        plain = {"text": SENTENCES[: len(given)], "label": given}
        files[split] = classes(path, *given) if isinstance(given, tuple) else write(path, **plain)
    return TextDataModule(data_files=files, tokenizer=tokenizer, **kwargs)


@cases(
    ("train", "test", "names", "ids"),
    [
        ((["bad", "good"], [0, 1]), (["good", "bad"], [0, 1, 1]), None, [1, 0, 0]),
        ((["bad", "fair", "good"], [0, 1, 2]), (["good", "bad", "odd"], [0, 1]), None, [2, 0]),
        (["good", "bad"], (["good", "bad"], [0, 1, 0]), None, [1, 0, 1]),
        (["good", "bad"], (["good", "bad"], [0, 1, 0]), ["good", "fair", "bad"], [0, 2, 0]),
        ((["good", "bad"], [0, 1]), (["good", "bad"], [0, 1, 0]), ["bad", "fair", "good"], [2, 0, 2]),
        ([0, 1], (["good", "bad"], [0, 1, 0]), ["bad", "good"], [1, 0, 1]),
        ([0, 1], (["good", "bad"], [0, 1, 0]), None, [0, 1, 0]),  # here, and below, one side has no names
        ((["0", "1"], [0, 1]), (["good", "bad"], [0, 1, 0]), ["bad", "good"], [1, 0, 1]),
        ((["bad", "good"], [0, 1]), (["0", "1"], [0, 1, 0]), None, [0, 1, 0]),
    ],
)
def test_a_class_is_the_same_in_each_split(tmp_path, tokenizer, train, test, names, ids):
    data = train_and_test(tmp_path, tokenizer, train, test, label_names=names)
    assert next(iter(data.test_dataloader()))["labels"].tolist() == ids


@cases(
    ("train", "test", "names", "message"),
    [
        ((["bad", "good"], [0, 1]), (["bad", "odd"], [0, 1]), None, "split `test` should be among .* Found `'odd'`"),
        ((["bad", "good"], [0, 1]), (["good", "bad"], [-1, -1]), None, "Found `-1`. -1 marks labels that were not"),
        (["bad", "good"], (["0", "1"], [0, 1]), None, "split `test` should be among .* Found `'0'`, `'1'`"),
        ((["bad", "good"], [0, 1]), (["bad", "good"], [0, 1]), ["no", "yes"], "should be, in the order of their ids, "),
        ((["bad", "good"], [0, 1]), (["bad", "good"], [0, 1]), ["good", "bad"], "should be, in the order of their ids"),
    ],
)
def test_names_that_cannot_be_told_are_refused(tmp_path, tokenizer, train, test, names, message):
    data = train_and_test(tmp_path, tokenizer, train, test, label_names=names)
    with pytest.raises(ConfigurationError, match=message):
        data.setup("test")
