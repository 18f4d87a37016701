"""The scores of always predicting the most frequent class."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_sparsegrad.data.samplers import is_filler
from lightning_sparsegrad.modules import SequenceClassification
from lightning_sparsegrad.modules._evaluation import Evaluation, parts_of


def majority_scores(trainer: Trainer, module: LightningModule) -> dict[str, float]:
    """Return the scores of always predicting the most frequent class of the validation split.

    Args:
        trainer: The Trainer after a fit.
        module: The module it fitted.

    Returns:
        The scores by the names that the fit logs, such as `val/accuracy`; empty if the module does not classify texts
        or was not validated.
    """
    loaders: Any = trainer.val_dataloaders
    if not isinstance(module, SequenceClassification) or module.num_labels == 1 or not loaders:
        return {}
    parts = list(loaders.values()) if isinstance(loaders, dict) else [loaders]
    if len(parts) != len(parts_of(loaders)):
        return {}
    device = trainer.strategy.root_device
    labels = [_labels(part).to(device) for part in parts]  # the rows of this process
    counts = torch.cat(labels).bincount(minlength=module.num_labels)
    answer = trainer.strategy.reduce(counts, reduce_op="sum").argmax()
    seen = getattr(trainer.datamodule, "train_language", None)  # type: ignore[attr-defined]  # set by its connector
    evaluation = Evaluation(loaders, module.metrics, device=device, seen=seen)
    for index, of_part in enumerate(labels):
        _add(evaluation, index, of_part, answer)
    scores = {f"val/{name}": float(value) for name, value in evaluation.compute().items()}
    return {name: value for name, value in scores.items() if not name.startswith("val/loss")}


def _labels(loader: Any) -> Tensor:
    return torch.cat([batch["labels"][: 0 if is_filler(loader, at) else None] for at, batch in enumerate(loader)])


def _add(evaluation: Evaluation, index: int, labels: Tensor, answer: Tensor) -> None:
    metrics = evaluation.update(index, 0, torch.zeros((), device=labels.device), len(labels))
    given = labels if len(labels) else answer[None]  # a process without rows does not count
    metrics.update(answer.expand_as(given), given)
