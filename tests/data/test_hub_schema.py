"""The files of `tests.hub` have the schema of the hub's data, written out here by hand."""

import unicodedata
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import ClassLabel, DatasetDict, List, Value
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from tests.cases import cases
from tests.hub import KEYS, tiny_encoder, write_glue, write_xglue

TEXT = Value("string")
SPLITS = {"train", "validation", "test"}
GLUE = [
    ("cola", ["sentence", "label", "idx"], ["unacceptable", "acceptable"]),
    ("sst2", ["sentence", "label", "idx"], ["negative", "positive"]),
    ("mrpc", ["sentence1", "sentence2", "label", "idx"], ["not_equivalent", "equivalent"]),
    ("qqp", ["question1", "question2", "label", "idx"], ["not_duplicate", "duplicate"]),
    ("stsb", ["sentence1", "sentence2", "label", "idx"], None),
    ("mnli", ["premise", "hypothesis", "label", "idx"], ["entailment", "neutral", "contradiction"]),
    ("qnli", ["question", "sentence", "label", "idx"], ["entailment", "not_entailment"]),
    ("rte", ["sentence1", "sentence2", "label", "idx"], ["entailment", "not_entailment"]),
    ("wnli", ["sentence1", "sentence2", "label", "idx"], ["not_entailment", "entailment"]),
    ("ax", ["premise", "hypothesis", "label", "idx"], ["entailment", "neutral", "contradiction"]),
]
XGLUE = [
    ("ner", ["words", "ner"], ["en", "de", "es", "nl"]),
    (
        "pos",
        ["words", "pos"],
        ["en", "de", "es", "nl", "bg", "el", "fr", "pl", "tr", "vi", "zh", "ur", "hi", "it", "ar", "ru", "th"],
    ),
    ("nc", ["news_title", "news_body", "news_category"], ["en", "de", "es", "fr", "ru"]),
    ("mlqa", ["context", "question", "answers"], ["en", "de", "ar", "es", "hi", "vi", "zh"]),
    (
        "xnli",
        ["premise", "hypothesis", "label"],
        ["en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"],
    ),
    ("paws-x", ["sentence1", "sentence2", "label"], ["en", "de", "es", "fr"]),
    ("qadsm", ["query", "ad_title", "ad_description", "relevance_label"], ["en", "de", "fr"]),
    (
        "wpr",
        ["query", "web_page_title", "web_page_snippet", "relavance_label"],  # so it is spelt
        ["en", "de", "es", "fr", "it", "pt", "zh"],
    ),
    ("qam", ["question", "answer", "label"], ["en", "de", "fr"]),
]
LABELS = {
    "ner": List(ClassLabel(names=["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"])),
    "pos": List(
        ClassLabel(
            names=[
                *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
                *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
            ]
        )
    ),
    "nc": ClassLabel(
        names=[
            *("foodanddrink", "sports", "travel", "finance", "lifestyle"),
            *("news", "entertainment", "health", "video", "autos"),
        ]
    ),
    "mlqa": {"answer_start": List(Value("int32")), "text": List(TEXT)},
    "xnli": ClassLabel(names=["entailment", "neutral", "contradiction"]),
    "paws-x": ClassLabel(names=["different", "same"]),
    "qadsm": ClassLabel(names=["Bad", "Good"]),
    "wpr": ClassLabel(names=["Bad", "Fair", "Good", "Excellent", "Perfect"]),
    "qam": ClassLabel(names=["False", "True"]),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for task, *_ in GLUE:
        write_glue(folder / "glue", task)
    for task, *_ in XGLUE:
        write_xglue(folder / "xglue", task)
    return folder


def load(folder: Path, task: str) -> DatasetDict:
    return datasets.load_dataset(str(folder), task)


@cases(("task", "columns", "names"), GLUE, ids=[task for task, *_ in GLUE])
def test_glue(hub: Path, task: str, columns: list[str], names: list[str] | None) -> None:
    splits = load(hub / "glue", task)
    pairs = {f"{part}_{domain}" for part in ("validation", "test") for domain in ("matched", "mismatched")}
    assert set(splits) == {"mnli": {"train"} | pairs, "ax": {"test"}}.get(task, SPLITS)
    for split, rows in splits.items():
        *texts, label, index = columns
        assert rows.column_names == columns
        assert [rows.features[name] for name in texts] == [TEXT] * len(texts)
        assert rows.features[label] == (ClassLabel(names=names) if names else Value("float32"))
        assert rows.features[index] == Value("int32")
        assert rows["idx"][:] == list(range(12))
        published = set(range(len(names))) if names else {0, 1.25, 2.5, 3.75, 5}
        assert set(rows["label"]) == ({-1} if split.startswith("test") else published)


@cases(("task", "columns", "languages"), XGLUE, ids=[task for task, *_ in XGLUE])
def test_xglue(hub: Path, task: str, columns: list[str], languages: list[str]) -> None:
    splits = load(hub / "xglue", task)
    parts = {f"{part}.{language}" for part in ("validation", "test") for language in languages}
    assert set(splits) == {"train"} | parts
    text = List(TEXT) if task in ("ner", "pos") else TEXT
    for rows in splits.values():
        assert len(rows) == 12
        assert rows.column_names == columns
        assert rows.features == {**dict.fromkeys(columns[:-1], text), columns[-1]: LABELS[task]}


@cases(("task", "columns"), [(task, columns) for task, columns, _ in XGLUE if task != "mlqa"])
def test_each_label_is_in_every_split(hub: Path, task: str, columns: list[str]) -> None:
    feature = LABELS[task]
    names = (feature.feature if isinstance(feature, List) else feature).names
    for rows in load(hub / "xglue", task).values():
        labels = rows[columns[-1]][:]
        assert len({id_ for label in labels for id_ in (label if isinstance(label, list) else [label])}) == len(names)


def test_the_layout_is_the_hub_s(hub: Path) -> None:
    names = {str(path.relative_to(hub)) for path in hub.rglob("*.parquet")}
    assert len(names) == 9 * 3 - 3 + 5 + 1 + 9 + 2 * (4 + 17 + 5 + 7 + 15 + 4 + 3 + 7 + 3)
    assert "glue/mnli/validation_mismatched-00000-of-00001.parquet" in names
    assert "xglue/paws-x/validation.fr-00000-of-00001.parquet" in names


def test_answers_are_where_they_are_said_to_be(hub: Path) -> None:
    first = []
    for rows in load(hub / "xglue", "mlqa").values():
        for row in rows:
            (start,), (answer,) = row["answers"]["answer_start"], row["answers"]["text"]
            assert answer
            assert row["context"][start : start + len(answer)] == answer
            first.append(row["context"].index(answer) == start)
    assert not all(first)  # so a search for the text is not enough
    assert sum(first) > len(first) / 2


def test_pages_of_a_query_stand_together_and_a_query_may_come_back(hub: Path) -> None:
    for rows in load(hub / "xglue", "wpr").values():
        queries = list(rows["query"])
        groups = [(query, len(list(pages))) for query, pages in groupby(queries)]
        assert [size for _, size in groups] == [3, 1, 4, 3, 1]
        assert len({query for query, _ in groups}) == 2


def test_names_begin_with_b_or_with_i(hub: Path) -> None:
    for rows in load(hub / "xglue", "ner").values():
        tags = [[rows.features["ner"].feature.int2str(id_) for id_ in row] for row in rows["ner"]]
        starts = {
            tag for row in tags for before, tag in zip(["O", *row], row, strict=False) if before == "O" and tag != "O"
        }
        assert starts == {f"{prefix}-{kind}" for prefix in "BI" for kind in ("PER", "ORG", "LOC")} | {
            "I-MISC",
            "B-MISC",
        }


@cases(
    ("language", "script"),
    [("ar", "ARABIC"), ("hi", "DEVANAGARI"), ("zh", "CJK"), ("ru", "CYRILLIC"), ("th", "THAI"), ("el", "GREEK")],
)
def test_a_language_is_in_its_script(hub: Path, language: str, script: str) -> None:
    for premise in load(hub / "xglue", "xnli")[f"test.{language}"]["premise"]:
        assert {unicodedata.name(letter).split()[0] for letter in premise if not letter.isspace()} == {script}
        assert (" " in premise) == (language not in ("th", "zh"))


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_the_encoder_reads_pairs_of_any_language_to_its_last_position(kind: str, tmp_path: Path) -> None:
    path = tiny_encoder(tmp_path, kind=kind)
    tokenizer = AutoTokenizer.from_pretrained(path)
    batch = tokenizer("雨落 alpha", "घरों Unilever", return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping")
    assert [" ".join(tokenizer.convert_ids_to_tokens(batch["input_ids"]))] == [
        "[CLS] 雨 落 alpha [SEP] घरों U ##n ##i ##l ##e ##v ##e ##r [SEP]"
    ]
    assert offsets[1:4] == [(0, 1), (1, 2), (3, 8)]
    assert ("token_type_ids" in batch) == (kind == "bert")
    long: Any = tokenizer(["alpha"], ["beta " * 600], truncation=True, return_tensors="pt")
    assert long["input_ids"].shape == (1, 512)
    for head, shape in [
        (AutoModelForSequenceClassification, (1, 2)),
        (AutoModelForTokenClassification, (1, 512, 2)),
        (AutoModelForQuestionAnswering, (1, 512)),
    ]:
        model = head.from_pretrained(path, num_labels=2)
        output = model(**long)
        assert (output.start_logits if head is AutoModelForQuestionAnswering else output.logits).shape == shape


def test_a_label_is_learnt_in_english_and_found_in_other_languages(hub: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder(tmp_path))
    splits = load(hub / "xglue", "xnli")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def encoded(split: str) -> Any:
        rows = splits[split][:]
        return tokenizer(rows["premise"], rows["hypothesis"], padding=True, return_tensors="pt")

    batch, labels = encoded("train"), torch.tensor(splits["train"]["label"][:])
    for _ in range(30):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for language in ("en", "ar", "fr", "ru", "hi"):
        split = f"validation.{language}"
        predictions = model(**encoded(split)).logits.argmax(-1)
        assert (predictions == torch.tensor(splits[split]["label"][:])).float().mean() >= 0.8
    assert all(
        text.split()[-1] == KEYS[label] for text, label in zip(splits["train"]["hypothesis"], labels, strict=True)
    )
