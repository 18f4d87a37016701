"""GLUE's tasks against the definitions of the benchmark."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from lightning_sparsegrad.data import GlueDataModule
from lightning_sparsegrad.data.glue import GLUE
from lightning_sparsegrad.errors import ConfigurationError
from tests import hub
from tests.cases import cases

METRICS = {
    "cola": ("matthews",),
    "mrpc": ("binary_f1", "accuracy"),
    "qqp": ("binary_f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
}
GENRES = ["matched", "mismatched"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("glue")
    for task in hub.GLUE:
        hub.write_glue(root, task, rows=6)
    return str(root)


@cases("task", hub.GLUE)
def test_a_task_is_what_the_benchmark_says(task: str, folder: str) -> None:
    columns, labels = hub.GLUE[task]
    unloaded = GlueDataModule(task)  # type: ignore[arg-type]
    assert unloaded.num_labels == (len(labels) or 1)
    assert unloaded.label_names == list(labels)
    assert unloaded.metrics == METRICS.get(task, ("accuracy",))
    assert unloaded.encoding.text_columns == list(columns)
    assert "splits_of_source" not in vars(unloaded)
    data = GlueDataModule(task, dataset=folder)  # type: ignore[arg-type]
    assert list(data.parts("validation")) == (GENRES if task in ("mnli", "ax") else [""])
    assert list(data.parts("predict")) == (GENRES if task == "mnli" else [""])
    assert sorted(GLUE[task].files) == sorted(data.parts("predict"))
    assert not data.parts("test")


@cases("task", ["cola", "mnli", "stsb"])
def test_scoring_what_is_not_published_is_refused(task: str, folder: str) -> None:
    data = GlueDataModule(task, dataset=folder)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"GLUE's test labels are not published .* run `validate` for scores"):
        data.test_dataloader()


def test_labels_of_minus_one_are_refused_wherever_they_are(tmp_path: Path) -> None:
    hub.write_glue(tmp_path, "rte", rows=6)
    names = {split: tmp_path / "rte" / f"{split}-00000-of-00001.parquet" for split in ("validation", "test")}
    names["validation"].write_bytes(names["test"].read_bytes())
    data = GlueDataModule("rte", dataset=str(tmp_path), tokenizer=hub.tiny_encoder(tmp_path / "encoder"))
    with pytest.raises(
        ConfigurationError, match=r"of split `validation` should be integers .* -1 marks labels that were"
    ):
        data.val_dataloader()


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    hub.write_glue(tmp_path, "rte", rows=6)
    path = tmp_path / "rte" / "train-00000-of-00001.parquet"
    rows = Dataset.from_parquet(str(path))
    features = rows.features.copy()
    features["label"].names = ["not_entailment", "entailment"]
    Dataset.from_dict(rows.to_dict(), features=features).to_parquet(path)
    with pytest.raises(ConfigurationError, match=r"in the order of their ids, `'entailment'`, `'not_entailment'`"):
        _ = GlueDataModule("rte", dataset=str(tmp_path)).label_space


def test_the_diagnostic_set_is_trained_as_mnli_and_predicted(folder: str) -> None:
    data, mnli = (GlueDataModule(task, dataset=folder) for task in ("ax", "mnli"))
    assert data.rows("train")["premise"][:] == mnli.rows("train")["premise"][:]
    assert data.rows("predict")["premise"][:] != mnli.rows("predict.matched")["premise"][:]


def test_similarities_are_written_within_their_range(folder: str, tmp_path: Path) -> None:
    data = GlueDataModule("stsb", dataset=folder)
    decoded = data.decode({"predictions": torch.tensor([-0.5, 2.34567, 7.0])}, {})
    data.write_predictions(tmp_path, "", decoded)
    assert (tmp_path / "STS-B.tsv").read_text() == "index\tprediction\n0\t0.0\n1\t2.346\n2\t5.0\n"


@cases(
    ("arguments", "message"),
    [
        ({"task": "stsbb"}, r"`task` should be one of .* Found `task = 'stsbb'`\. Near matches: `stsb`"),
        ({"task": "rte", "dataset": "./nowhere"}, r"`dataset` should be an existing folder"),
        ({"task": "rte", "dataset": ".", "revision": "main"}, r"`revision` should be left out for a local folder"),
        ({"task": "rte", "batch_size": 0}, r"`batch_size` should be at least 1"),
    ],
)
def test_arguments_that_do_not_work(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GlueDataModule(**arguments)  # type: ignore[arg-type]
