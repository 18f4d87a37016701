"""Metrics of data with parts: languages, or several validation sets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from lightning_sparsegrad import ConfigurationError, Identity, SequenceClassification
from tests.cases import cases

from ..tiny import VOCABULARY, tiny_bert
from .tasks import trainer

CLASSES = 2
SIZES = {"en": (4, 4), "de": (4, 1), "sw": (3,)}

Batch = dict[str, Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, labels in {"classes": CLASSES, "number": 1}.items():
        tiny_bert(num_labels=labels, num_hidden_layers=1).save_pretrained(root / name)  # type: ignore[operator]
    return root


def batches(sizes: tuple[int, ...], *, seed: int, numbers: bool = False) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    batched = []
    for size in sizes:
        ids = torch.randint(3, VOCABULARY, (size, 5), generator=generator)
        labels = torch.randint(0, CLASSES, (size,), generator=generator)
        if numbers:
            labels = torch.randn(size, generator=generator)
        batched.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return batched


class Languages(LightningDataModule):
    """Data with a loader for each language, trained on one of them."""

    def __init__(self, language: str | None = "en", *, listed: bool = False, numbers: bool = False) -> None:
        super().__init__()
        self.train_language = language
        self.listed = listed
        self.parts = {
            name: batches(sizes, seed=seed, numbers=numbers) for seed, (name, sizes) in enumerate(SIZES.items())
        }

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts["en"], batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        loaders: dict[str, Any] = {
            name: DataLoader(batched, batch_size=None)  # type: ignore[arg-type]
            for name, batched in self.parts.items()
        }
        return list(loaders.values()) if self.listed else loaders

    test_dataloader = val_dataloader


@torch.no_grad()
def outputs(task: SequenceClassification, batched: list[Batch]) -> tuple[Tensor, Tensor]:
    task.eval()
    logits = [task.model(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits for b in batched]
    return torch.cat(logits), torch.cat([batch["labels"] for batch in batched])


@pytest.mark.parametrize("stage", ["val", "test"])
def test_each_part_is_measured_and_so_are_the_means(folder: Path, stage: str) -> None:
    task = SequenceClassification(str(folder / "classes"), CLASSES, Identity(), metrics=["accuracy"])
    data = Languages()
    run = trainer()
    (run.validate if stage == "val" else run.test)(task, data, verbose=False)
    expected: dict[str, float] = {}
    for language, batched in data.parts.items():
        logits, labels = outputs(task, batched)
        expected[f"{stage}/accuracy/{language}"] = float((logits.argmax(-1) == labels).float().mean())
        losses = -logits.log_softmax(-1)[torch.arange(len(labels)), labels]
        expected[f"{stage}/loss/{language}"] = float(losses.mean())
    for metric in ("accuracy", "loss"):
        values = {language: expected[f"{stage}/{metric}/{language}"] for language in SIZES}
        assert len(set(values.values())) > 1
        expected[f"{stage}/{metric}/mean"] = sum(values.values()) / 3
        expected[f"{stage}/{metric}/mean_unseen"] = (values["de"] + values["sw"]) / 2
    assert {name: float(value) for name, value in run.callback_metrics.items()} == pytest.approx(expected)


@pytest.mark.parametrize("language", [None, "fr"])
def test_what_is_unseen_depends_on_the_training_language(folder: Path, language: str | None) -> None:
    run = trainer()
    task = SequenceClassification(str(folder / "classes"), CLASSES, Identity())
    run.validate(task, Languages(language), verbose=False)
    assert "val/accuracy/mean" in run.callback_metrics
    unseen = run.callback_metrics.get("val/accuracy/mean_unseen")
    assert unseen == (None if language is None else run.callback_metrics["val/accuracy/mean"])


def test_nothing_is_unseen_of_the_training_language_alone(folder: Path) -> None:
    data, run = Languages(), trainer()
    data.parts = {"en": data.parts["en"]}
    run.validate(SequenceClassification(str(folder / "classes"), CLASSES, Identity()), data, verbose=False)
    assert set(run.callback_metrics) == {
        f"val/{name}/{part}" for name in ("loss", "accuracy", "f1") for part in ("en", "mean")
    }


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
def test_a_part_without_rows_is_left_out(folder: Path) -> None:
    data, run = Languages(), trainer()
    data.parts["de"] = []
    run.validate(SequenceClassification(str(folder / "classes"), CLASSES, Identity()), data, verbose=False)
    assert "val/accuracy/de" not in run.callback_metrics
    assert run.callback_metrics["val/accuracy/mean_unseen"] == run.callback_metrics["val/accuracy/sw"]


@pytest.mark.parametrize("name", ["mean", "mean_unseen"])
def test_a_part_that_is_called_as_a_mean_is_refused(folder: Path, name: str) -> None:
    data = Languages()
    data.parts[name] = data.parts["de"]
    task = SequenceClassification(str(folder / "classes"), CLASSES, Identity())
    with pytest.raises(ConfigurationError, match=rf"should not be named `mean`, `mean_unseen`: .* Found `{name}`\."):
        trainer().validate(task, data, verbose=False)


def test_loaders_without_names_are_counted(folder: Path) -> None:
    run = trainer()
    task = SequenceClassification(str(folder / "classes"), CLASSES, Identity(), metrics=["accuracy"])
    run.validate(task, Languages(listed=True), verbose=False)
    assert {name for name in run.callback_metrics if "loss" not in name} == {
        f"val/accuracy/{part}" for part in (0, 1, 2, "mean")
    }


def test_correlations_of_numbers(folder: Path) -> None:
    task = SequenceClassification(str(folder / "number"), 1, Identity(), metrics=["spearman", "pearson"])
    data, run = Languages(numbers=True), trainer()
    run.validate(task, data, verbose=False)
    for language in ("en", "de"):
        numbers, labels = outputs(task, data.parts[language])
        for name, reference in {"pearson": pearson_corrcoef, "spearman": spearman_corrcoef}.items():
            expected = float(reference(numbers.squeeze(-1), labels))
            assert float(run.callback_metrics[f"val/{name}/{language}"]) == pytest.approx(expected, abs=1e-5)


def test_a_checkpoint_is_chosen_by_the_languages_not_trained_on(folder: Path, tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, monitor="val/accuracy/mean_unseen", mode="max", save_top_k=-1)
    run = trainer(max_epochs=3, callbacks=[checkpoints], enable_checkpointing=True)
    run.fit(SequenceClassification(str(folder / "classes"), CLASSES, Identity()), Languages())
    assert len(checkpoints.best_k_models) == 3
    best = max(checkpoints.best_k_models.values())
    assert checkpoints.best_model_score == best


def test_evaluations_do_not_leak_into_each_other(folder: Path) -> None:
    task = SequenceClassification(str(folder / "classes"), CLASSES, Identity())
    run = trainer()
    first, second = (run.validate(task, Languages(), verbose=False) for _ in range(2))
    assert first == second


@cases(
    ("metrics", "labels", "message"),
    [
        (["acuracy"], 2, r"Parameter `metrics` should be one of .* Near matches: `accuracy`"),
        (["pearson"], 2, r"should suit the labels\. Found `pearson` for `num_labels = 2`"),
        (["accuracy"], 1, r"should suit the labels\. Found `accuracy` for `num_labels = 1`"),
        (["binary_f1"], 3, r"should suit the labels\. Found `binary_f1` for `num_labels = 3`"),
        ([], 2, r"should name at least one metric"),
    ],
)
def test_metrics_that_do_not_suit(folder: Path, metrics: Any, labels: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SequenceClassification(str(folder / "classes"), labels, Identity(), metrics=metrics)


def test_a_trainer_without_data_module_measures_the_default(folder: Path) -> None:
    run = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    task = SequenceClassification(str(folder / "classes"), CLASSES, Identity())
    run.validate(task, Languages().val_dataloader(), verbose=False)
    assert {"val/accuracy/sw", "val/f1/sw"} <= set(run.callback_metrics)


def test_a_loss_that_is_no_number_is_told(folder: Path) -> None:
    class Diverged(SequenceClassification):
        def forward(self, batch: Any) -> Any:
            output = super().forward(batch)
            output.loss = output.loss * float("nan")
            return output

    run = trainer()
    run.validate(Diverged(str(folder / "classes"), CLASSES, Identity()), Languages(), verbose=False)
    assert run.callback_metrics["val/loss/en"].isnan()
    assert run.callback_metrics["val/loss/mean"].isnan()
