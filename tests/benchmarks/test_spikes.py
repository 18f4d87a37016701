"""The bad batches of the study of spikes."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from benchmarks.studies import spikes  # not its classes, whose names pytest takes for tests
from lightning_sparsegrad import ValenceDataModule
from tests.lightning.tasks import trainer

EXAMPLES = [{"inputs": torch.tensor([1.0, index]), "labels": index % 2} for index in range(16)]


class Recorded(LightningModule):
    """A classifier that keeps the gradient of each step and does not move."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(2, 2)
        nn.init.ones_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.gradients: list[Tensor] = []

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.classifier(batch["inputs"]), batch["labels"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def on_after_backward(self) -> None:
        assert self.classifier.weight.grad is not None
        self.gradients.append(self.classifier.weight.grad.clone())

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.0)


def test_a_bad_batch_has_the_other_labels_and_a_larger_loss() -> None:
    batches = DataLoader(EXAMPLES, batch_size=2)  # type: ignore[arg-type, var-annotated]
    task = Recorded()
    trainer(callbacks=[spikes.BadBatches(3, after=4, factor=100.0)]).fit(task, batches)
    assert len(task.gradients) == 8
    for step, batch in enumerate(batches):
        is_bad = step == 5  # the third from the start is one of the first four
        other = {**batch, "labels": 1 - batch["labels"]}
        (expected,) = torch.autograd.grad(
            task.loss(other) * 100 if is_bad else task.loss(batch), task.classifier.weight
        )
        torch.testing.assert_close(task.gradients[step], expected)


def test_words_are_validated_on_the_test_split() -> None:
    ordinary, tested = ValenceDataModule().load_splits(), spikes.TestedWords().load_splits()
    assert tested["validation"]["word"] == ordinary["test"]["word"]
    assert tested["train"]["word"] == ordinary["train"]["word"]
