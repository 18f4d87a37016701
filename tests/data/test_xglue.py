"""XGLUE's tasks against the definitions of the benchmark."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from lightning_sparsegrad.data import XglueDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests import hub
from tests.cases import cases
from tests.data.helpers import MINILM

LABELS = {**hub.TAGS, **{task: labels for task, (_, _, labels) in hub.XGLUE.items()}, "mlqa": ("start", "end")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("xglue")
    for task in hub.XGLUE_LANGUAGES:
        hub.write_xglue(root, task, rows=5)
    return str(root)


@cases("task", hub.XGLUE_LANGUAGES)
def test_a_task_is_what_the_benchmark_says(task: str, folder: str) -> None:
    languages = hub.XGLUE_LANGUAGES[task].split()
    unloaded: Any = XglueDataModule(task)  # type: ignore[arg-type]
    assert unloaded.label_names == list(LABELS[task])
    assert unloaded.num_labels == len(LABELS[task])
    assert unloaded.languages == languages
    assert unloaded.train_language == "en"
    is_classification = task in ("nc", "xnli", "paws-x", "qadsm", "qam")
    assert unloaded.metrics == (("accuracy",) if is_classification else None)
    assert "splits_of_source" not in vars(unloaded)
    data = XglueDataModule(task, dataset=folder)  # type: ignore[arg-type]
    assert list(data.parts("train")) == [""]
    assert all(list(data.parts(kind)) == languages for kind in ("validation", "test", "predict"))
    assert list(data.label_space.names) == list(LABELS[task])


def test_some_languages_alone(folder: str) -> None:
    data = XglueDataModule("pos", dataset=folder, languages=["th", "en"])
    assert list(data.parts("test")) == ["th", "en"]


def test_the_misspelt_column_is_the_one_that_is_read(folder: str, tmp_path: Path) -> None:
    data = XglueDataModule("wpr", dataset=folder, languages=["en"], tokenizer=MINILM)
    assert data.dataset("test.en")["labels"][:] == data.rows("test.en")["relavance_label"][:]
    hub.write_xglue(tmp_path, "wpr", rows=5)
    for path in (tmp_path / "wpr").glob("*.parquet"):
        Dataset.from_parquet(str(path)).rename_column("relavance_label", "relevance_label").to_parquet(path)
    right = XglueDataModule("wpr", dataset=str(tmp_path), languages=["en"], tokenizer=MINILM)
    with pytest.raises(ConfigurationError, match=r"Found `relavance_label`, .* Near matches: `relevance_label`"):
        right.train_dataloader()


@pytest.mark.parametrize(("task", "column"), [("wpr", "web_page_text"), ("qadsm", "ad_text")])
def test_titles_and_texts_are_read_as_one(folder: str, task: str, column: str) -> None:
    data = XglueDataModule(task, dataset=folder, languages=["en"], tokenizer=MINILM)  # type: ignore[arg-type]
    rows = data.rows("train")
    parts = {"wpr": ("web_page_title", "web_page_snippet"), "qadsm": ("ad_title", "ad_description")}[task]
    assert rows[column][:] == [" ".join(pair) for pair in zip(*(rows[part] for part in parts), strict=True)]
    text = data.tokenizer.decode(data.dataset("train")["input_ids"][0], skip_special_tokens=True)
    assert rows[parts[1]][0].split()[-1] in text


def test_rows_of_one_query_are_a_group(folder: str) -> None:
    data = XglueDataModule("wpr", dataset=folder, languages=["zh"], tokenizer=MINILM)
    queries, groups = data.rows("test.zh")["query"][:], data.dataset("test.zh")["group"][:]
    assert groups == [0, 0, 0, 1, 2]  # three pages, one, and the first of the next four
    assert len({query for query, group in zip(queries, groups, strict=True) if group == 0}) == 1


def test_a_language_without_files_is_named(tmp_path: Path) -> None:
    hub.write_xglue(tmp_path, "qam", rows=5)
    (tmp_path / "qam" / "validation.fr-00000-of-00001.parquet").unlink()
    with pytest.raises(ConfigurationError, match=r"data of `qam` should have a split .* Found no `validation\.fr`\."):
        XglueDataModule("qam", dataset=str(tmp_path)).parts("test")
    assert XglueDataModule("qam", dataset=str(tmp_path), languages=["de"]).parts("test")


def test_the_default_data_is_of_one_revision_and_another_is_not() -> None:
    assert XglueDataModule("ner")._revision == "de1926389545bc73d13a5b850f2596bdaf463f72"
    assert XglueDataModule("ner", revision="main")._revision == "main"
    assert XglueDataModule("ner", dataset="somebody/xglue")._revision is None


@cases(
    ("arguments", "message"),
    [
        ({"task": "nerr"}, r"`task` should be one of .* Found `task = 'nerr'`\. Near matches: `ner`"),
        ({"task": "ner", "languages": ["en", "zh"]}, r"`languages` should be one of 'en', 'de', .* Found .*'zh'"),
        ({"task": "ner", "languages": []}, r"`languages` should name at least one language"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        XglueDataModule(**arguments)
