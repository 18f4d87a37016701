"""The scores of always predicting the most frequent class, against scikit-learn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score

from lightning_sparsegrad import Identity, SequenceClassification
from lightning_sparsegrad.studies._majority import majority_scores
from tests.lightning.tasks import Regression, loader, trainer
from tests.lightning.test_evaluation import Languages
from tests.tiny import tiny_bert


def scores(folder: Path, data: Any, *, labels: int = 2) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the scores of the most frequent class, and the metrics that a fit logged."""
    tiny_bert(num_labels=labels, num_hidden_layers=1).save_pretrained(folder)  # type: ignore[operator]
    task = SequenceClassification(str(folder), labels, Identity())
    run = trainer(max_epochs=1)
    run.fit(task, datamodule=data)
    return majority_scores(run, task), run.callback_metrics


def test_scores_of_parts_are_those_of_scikit_learns_dummy(tmp_path: Path) -> None:
    data = Languages()
    computed, logged = scores(tmp_path, data)
    parts = {name: torch.cat([batch["labels"] for batch in batches]) for name, batches in data.parts.items()}
    every = torch.cat(list(parts.values()))
    dummy = DummyClassifier(strategy="most_frequent").fit(every[:, None], every)
    for name, labels in parts.items():
        answers = dummy.predict(labels[:, None])
        assert computed[f"val/accuracy/{name}"] == pytest.approx(accuracy_score(labels, answers))
        assert computed[f"val/f1/{name}"] == pytest.approx(f1_score(labels, answers, average="macro"), abs=1e-6)
    means = [computed[f"val/accuracy/{name}"] for name in parts]
    assert computed["val/accuracy/mean"] == pytest.approx(sum(means) / 3)
    assert computed["val/accuracy/mean_unseen"] == pytest.approx((sum(means) - computed["val/accuracy/en"]) / 2)
    assert computed.keys() == {name for name in logged if name.startswith("val/") and "loss" not in name}


def test_numbers_and_other_tasks_have_none(tmp_path: Path) -> None:
    assert scores(tmp_path, Languages(numbers=True), labels=1)[0] == {}
    run = trainer()
    run.fit(Regression(), loader(), loader(2))
    assert majority_scores(run, run.lightning_module) == {}
