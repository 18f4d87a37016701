"""Files of predictions."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_sparsegrad import ConfigurationError, Identity, PredictionWriter, SequenceClassification, TextDataModule
from tests import hub
from tests.data.helpers import write

from .tasks import trainer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return hub.tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture
def data(tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> TextDataModule:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    texts = [" ".join(hub.KEYS[row : row + 1 + row % 4]) for row in range(9)]
    train = write(tmp_path / "train.csv", text=texts, label=["no", "yes", "perhaps"] * 3)
    return TextDataModule(
        data_files={"train": train, "predict.de": train, "predict.fr": train}, tokenizer=encoder, batch_size=4
    )


def read(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines(), delimiter="\t"))


@pytest.mark.parametrize("workers", [0, 1])
def test_each_part_has_a_file_of_names_in_the_order_of_its_rows(
    data: TextDataModule, encoder: str, tmp_path: Path, workers: int
) -> None:
    data.num_workers = workers
    task = SequenceClassification(encoder, 3, Identity())
    run = trainer(callbacks=[PredictionWriter(str(tmp_path / "out"))])
    predictions = run.predict(task, data)
    run.predict(task, data)  # the second time writes the same, and not both
    classes = [int(label) for output in predictions[0] for label in output["predictions"]]  # type: ignore[index]
    assert len(set(classes)) > 1
    for part in ("de", "fr"):
        heading, *rows = read(tmp_path / "out" / f"{part}.tsv")
        assert heading == ["index", "prediction"]
        assert rows == [[str(index), ["no", "perhaps", "yes"][label]] for index, label in enumerate(classes)]


def test_where_fewer_batches_are_predicted_fewer_rows_are_written(
    data: TextDataModule, encoder: str, tmp_path: Path
) -> None:
    run = trainer(callbacks=[PredictionWriter(str(tmp_path / "out"))], limit_predict_batches=1)
    run.predict(SequenceClassification(encoder, 3, Identity()), data, return_predictions=False)
    assert len(read(tmp_path / "out" / "fr.tsv")) == 1 + 4


class Renamed(TextDataModule):
    def predict_dataloader(self) -> Any:
        loaders = super().predict_dataloader()
        return {"../../de": loaders["de"]}


def test_a_part_does_not_lead_out_of_the_folder(data: TextDataModule, encoder: str, tmp_path: Path) -> None:
    path = str(tmp_path / "train.csv")
    others = [
        TextDataModule(data_files={"train": path, "predict.../../de": path}, tokenizer=encoder),
        Renamed(data_files={"train": path, "predict.de": path}, tokenizer=encoder),
    ]
    before = sorted(tmp_path.glob("*"))
    for other in others:
        run = trainer(callbacks=[PredictionWriter(str(tmp_path / "out" / "in"))])
        with pytest.raises(ConfigurationError, match=r"should have names without slashes: .* Found `\.\./\.\./de`"):
            run.predict(SequenceClassification(encoder, 3, Identity()), other)
    assert {path.name for path in {*tmp_path.glob("*")} - {*before}} <= {"cache"}


class Bare(LightningModule):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.output


def test_a_step_that_returns_something_else_is_named(data: TextDataModule) -> None:
    run = trainer(callbacks=[PredictionWriter()])
    with pytest.raises(ConfigurationError, match=r"by the `predict_step` of `Bare`\. Found `Tensor`"):
        run.predict(Bare(torch.zeros(4)), data)


def test_data_that_do_not_know_what_a_prediction_means_are_refused() -> None:
    run = trainer(callbacks=[PredictionWriter()])
    with pytest.raises(ConfigurationError, match=r"used with a data module of this library\. Found `NoneType`"):
        run.predict(Bare(None), torch.utils.data.DataLoader([1, 2]))  # type: ignore[arg-type]


class Batches:
    """A loader without a sampler."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = list(batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Streamed(TextDataModule):
    def predict_dataloader(self) -> Any:
        loaders = super().predict_dataloader()
        return {"de": loaders["de"], "fr": Batches(loaders["fr"])}


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")
def test_rows_of_a_loader_without_a_sampler_are_numbered_as_they_come(
    data: TextDataModule, encoder: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "train.csv")
    other = Streamed(
        data_files={"train": path, "predict.de": path, "predict.fr": path}, tokenizer=encoder, batch_size=4
    )
    trainer(callbacks=[PredictionWriter(str(tmp_path / "out"))]).predict(
        SequenceClassification(encoder, 3, Identity()), other
    )
    assert read(tmp_path / "out" / "fr.tsv") == read(tmp_path / "out" / "de.tsv")
    assert len(read(tmp_path / "out" / "fr.tsv")) == 1 + 9
