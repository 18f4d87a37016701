from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lightning_sparsegrad.data import WordsDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import MINILM, write

WORDS = [["Angela", "Merkel", "visited", "Wolfsburg", "."], ["Nothing"], ["\u200b", "unbelievably", "good"]]
TAGS = [["B-PER", "I-PER", "O", "B-LOC", "O"], ["O"], ["O", "B-LOC", "O"]]
NAMES = ["B-LOC", "B-PER", "I-PER", "O"]


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "rows.parquet", words=WORDS, tags=TAGS)


def only(loader: Any) -> Any:
    (batch,) = loader
    return batch


def test_a_word_has_its_label_at_its_first_piece_alone(path):
    data = WordsDataModule(data_files={"train": path, "test": path}, tokenizer=MINILM)
    batch = only(data.test_dataloader())
    assert data.label_names == NAMES
    assert sorted(batch) == ["attention_mask", "input_ids", "labels", "token_type_ids"]
    for ids, labels, tags in zip(batch["input_ids"], batch["labels"].tolist(), TAGS, strict=True):
        pieces = data.tokenizer.convert_ids_to_tokens(ids)
        begins = [not piece.startswith("##") and piece not in data.tokenizer.all_special_tokens for piece in pieces]
        assert [label != -100 for label in labels] == begins
        # the tokenizer makes nothing of a blank of no width, so its label is nowhere
        expected = tags if tags != TAGS[2] else tags[1:]
        assert [NAMES[label] for label in labels if label != -100] == expected
    assert any(piece.startswith("##") for piece in pieces)


def test_labels_may_be_ids_of_a_known_order(tmp_path):
    features = Features({"words": List(Value("string")), "tags": List(ClassLabel(names=NAMES))})
    ids = [[NAMES.index(tag) for tag in row] for row in TAGS]
    Dataset.from_dict({"words": WORDS, "tags": ids}, features=features).to_parquet(tmp_path / "ids.parquet")
    files = {"train": str(tmp_path / "ids.parquet"), "test": write(tmp_path / "names.parquet", words=WORDS, tags=TAGS)}
    by_id = only(WordsDataModule(data_files={"test": files["train"]}, tokenizer=MINILM).test_dataloader())
    by_name = only(WordsDataModule(data_files={"test": files["test"]}, tokenizer=MINILM).test_dataloader())
    assert torch.equal(by_id["labels"], by_name["labels"])
    plain = write(tmp_path / "plain.parquet", words=WORDS, tags=ids)
    with_names = WordsDataModule(data_files={"test": plain}, tokenizer=MINILM, label_names=NAMES)
    assert torch.equal(only(with_names.test_dataloader())["labels"], by_name["labels"])


@pytest.mark.parametrize("train", ["names", "ids"])
def test_a_label_is_the_same_in_each_split(tmp_path, path, train):
    def ids_of(names: list[str], split: str) -> str:
        features = Features({"words": List(Value("string")), "tags": List(ClassLabel(names=names))})
        ids = [[names.index(tag) for tag in row] for row in TAGS]
        Dataset.from_dict({"words": WORDS, "tags": ids}, features=features).to_parquet(tmp_path / f"{split}.parquet")
        return str(tmp_path / f"{split}.parquet")

    files = {"train": path if train == "names" else ids_of(NAMES, "train"), "test": ids_of(NAMES[::-1], "test")}
    data = WordsDataModule(data_files=files, tokenizer=MINILM)
    expected = WordsDataModule(data_files={"train": path, "test": path}, tokenizer=MINILM)
    assert data.label_names == NAMES
    assert torch.equal(only(data.test_dataloader())["labels"], only(expected.test_dataloader())["labels"])


def test_predictions_are_read_back_word_by_word(tmp_path, path):
    new = write(tmp_path / "new.parquet", words=WORDS)
    files = {"train": path, "predict": new}
    data = WordsDataModule(data_files=files, tokenizer=MINILM, max_length=6)
    batch = only(data.predict_dataloader())
    assert "labels" not in batch
    assert batch["word_count"].tolist() == [5, 1, 3]
    predictions = torch.full_like(batch["input_ids"], NAMES.index("I-PER"))
    predictions[0, 1] = NAMES.index("B-PER")
    decoded = data.decode({"predictions": predictions}, batch)
    # the last word of the first row is after the sixth token, the first of the last row has no token: both are filled
    assert [len(row) for row in decoded] == [5, 1, 3]
    assert decoded[0][0] == "B-PER"
    assert decoded[0][-1] == "O"
    assert decoded[1] == ["I-PER"]
    assert decoded[2][:2] == ["O", "I-PER"]


def test_a_folder_of_conll_files_by_language(tmp_path):
    for name, text in {
        "train.conll": "good O\nday B-X\n\nbad O\n",
        "validation.de.conll": "guter O\nTag B-X\n",
        "validation.hi.conll": "अच्छा O\nदिन B-X\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    data = WordsDataModule(str(tmp_path), tokenizer=MINILM, train_language="de")
    assert list(data.val_dataloader()) == ["de", "hi"]
    assert only(data.val_dataloader()["hi"])["labels"].tolist()[0][1] == data.label_names.index("O")


@cases(
    ("columns", "message"),
    [
        (
            {"words": WORDS, "tags": [["O", "X"]] * 3},
            r"should have the same length in each row\. Found 5 and 2 in row 0\.",
        ),
        ({"words": ["a b"] * 3, "tags": TAGS}, r"Column `words` of split `test` should have lists of texts or labels"),
        ({"words": TAGS, "tags": [[1.5]] * 3}, r"Labels in column `tags` should be integers or text\. Found floats"),
        (
            {"words": [[1, 2]], "tags": [["O", "X"]]},
            r"Column `words` of split `test` should have lists of words\. Found .*int",
        ),
        (
            {"words": [["a", None]], "tags": [["O", "X"]]},
            r"`words` of split `test` should have lists without nulls\. Found 1",
        ),
        ({"words": WORDS, "tag": TAGS}, r"`tags_column` should name a column .* Near matches: `tag`"),
    ],
)
def test_rows_that_do_not_work_are_reported(tmp_path, columns, message):
    data = WordsDataModule(data_files={"test": write(tmp_path / "rows.parquet", **columns)}, tokenizer=MINILM)
    with pytest.raises(ConfigurationError, match=message):
        data.test_dataloader()


def test_an_unknown_label_is_named(tmp_path, path):
    other = write(tmp_path / "other.parquet", words=[["a"]], tags=[["B-LOK"]])
    data = WordsDataModule(data_files={"train": path, "validation": other}, tokenizer=MINILM)
    with pytest.raises(
        ConfigurationError, match=r"of split `validation` should be among .* Found `'B-LOK'`\. Near .*B-LOC"
    ):
        data.val_dataloader()


def test_bytes_are_told_apart_by_the_blank_before_a_word(tmp_path, path):
    """RoBERTa and GPT-2 have different tokens for a word within a sentence and at its start."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["Angela Merkel visited Wolfsburg"] * 3, trainer)
    folder = tmp_path / "roberta"
    folder.mkdir()
    backend.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer", "model_max_length": 64}')
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    data = WordsDataModule(data_files={"train": path, "test": path}, tokenizer=str(folder), max_length=64)
    batch = only(data.test_dataloader())
    pieces = data.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert "ĠMerkel" in pieces
    labels = batch["labels"][0].tolist()
    assert NAMES[labels[pieces.index("ĠMerkel")]] == "I-PER"
    assert sum(label != -100 for label in labels) == 5
