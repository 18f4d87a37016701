"""Folders of files named after their splits and parts."""

import warnings
from pathlib import Path

import pytest

from lightning_sparsegrad.data import TextDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import write


def folder(root: Path, *names: str) -> TextDataModule:
    for number, name in enumerate(names):
        write(root / name, text=[f"{'good ' * number}rain", "bad"], label=[1, 0])
    return TextDataModule(str(root), train_language="de")


def test_parts_are_kept_apart_whatever_their_format(tmp_path: Path, tokenizer: str) -> None:
    names = ("train.jsonl", "validation.de.jsonl", "validation.zh-Hant.csv", "test.pt_BR.parquet", "labels.json")
    data = folder(tmp_path, *names)
    data.tokenizer_name = tokenizer
    assert list(data.splits_of_source) == [
        "predict.pt_BR",
        "test.pt_BR",
        "train",
        "validation.de",
        "validation.zh-Hant",
    ]
    assert list(data.val_dataloader()) == ["de", "zh-Hant"]
    texts = [data.rows(f"validation.{part}")["text"][0] for part in ("de", "zh-Hant")]
    assert texts == ["good rain", "good good rain"]
    assert data.train_language == "de"


def test_shards_are_put_together(tmp_path: Path) -> None:
    shards = [f"{split}-0000{n}-of-00002.parquet" for split in ("train", "validation.de") for n in (0, 1)]
    data = folder(tmp_path, *shards)
    assert {name: len(rows) for name, rows in data.splits_of_source.items()} == {"train": 4, "validation.de": 4}


@cases("name", ["dev.de.csv", "train.en.csv", "validation.de.old.csv"])
def test_a_part_of_no_split_is_refused(tmp_path: Path, name: str) -> None:
    data = folder(tmp_path, "train.csv", "validation.fr.csv", name)
    with pytest.raises(ConfigurationError, match=rf"should be named after their splits.* Found `{name}` in"):
        data.parts("validation")


def test_a_split_with_and_without_parts_is_refused(tmp_path: Path) -> None:
    data = folder(tmp_path, "train.csv", "validation.csv", "validation.de.csv")
    with pytest.raises(
        ConfigurationError, match=r"should be whole, or have parts\. Found `validation`, `validation.de`"
    ):
        data.parts("validation")


@pytest.mark.parametrize("name", ["dev.csv", "validation_small.csv"])
def test_other_names_are_still_found_out_by_datasets(tmp_path: Path, name: str) -> None:
    assert set(folder(tmp_path, "train.csv", name).splits_of_source) == {"train", "validation"}


def test_data_files_may_be_parts(tmp_path: Path, tokenizer: str) -> None:
    path = write(tmp_path / "rows.csv", text=["rain", "bad"], label=[1, 0])
    data = TextDataModule(data_files={"train": path, "validation.de": path}, tokenizer=tokenizer)
    assert list(data.val_dataloader()) == ["de"]
    with pytest.raises(ConfigurationError, match=r"keys of `data_files` should be .* Found `valid.de`\. Near matches"):
        TextDataModule(data_files={"train": path, "valid.de": path})


@cases(
    ("name", "message"),
    [
        ("validation.mean", r"should not be named `mean`, `mean_unseen`: .* Found `mean`\."),
        ("validation.a/b", r"should have names without slashes: .* Found `a/b`\."),
        ("validation.a\\b", r"should have names without slashes"),
    ],
)
def test_names_of_parts_that_cannot_be_are_refused(tmp_path: Path, tokenizer: str, name: str, message: str) -> None:
    path = write(tmp_path / "a.csv", text=["a", "of"], label=[0, 1])
    data = TextDataModule(data_files={"train": path, name: path, "predict.mean": path}, tokenizer=tokenizer)
    with pytest.raises(ConfigurationError, match=message):
        data.setup("fit")
    assert len(list(data.predict_dataloader()["mean"])) == 1  # of which there are no means


@cases(
    ("language", "near"),
    [("eng", " Near matches: `en`."), ("EN", ""), ("sw", ""), ("en", None), ("de", None), (None, None)],
)
def test_a_training_language_that_is_no_part_is_noticed(tmp_path: Path, language: str | None, near: str | None) -> None:
    path = write(tmp_path / "a.csv", text=["a", "of"], label=[0, 1])
    files = {"train": path, "validation.en": path, "test.de": path}
    data = TextDataModule(data_files=files, train_language=language)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert set(data.splits_of_source) == {*files, "predict.de"}
    texts = [str(each.message) for each in warned if "train_language" in str(each.message)]
    assert len(texts) == (near is not None)
    if near is not None:
        sentence = f"`train_language = '{language}'`, so that `mean_unseen` is the mean over all of them: `de`, `en`."
        assert sentence + near in texts[0]
