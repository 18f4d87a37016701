"""The metrics of classes and numbers, by their names in configs."""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassF1Score
from torchmetrics.utilities.data import dim_zero_cat
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.metrics.matthews import MatthewsCorrelation


class _PearsonCorrelation(PearsonCorrCoef):
    """torchmetrics' Pearson correlation, corrected for processes with one row, or with rows of equal values.

    torchmetrics divides by the largest deviation from the mean, but computes it from the mean of each process alone, so
    that it would be 0 there and the result NaN.
    """

    @override
    def compute(self) -> Tensor:
        if self.n_total.numel() > 1:  # several processes
            for means, deviations in ((self.mean_x, self.max_abs_dev_x), (self.mean_y, self.max_abs_dev_y)):
                of_all = (means * self.n_total).sum() / self.n_total.sum()
                deviations.copy_(deviations.maximum((means - of_all).abs() * (self.n_total > 0)))
        correlation: Tensor = super().compute()
        return correlation


class _SpearmanCorrelation(SpearmanCorrCoef):
    """torchmetrics' Spearman correlation, which is NaN if a prediction is NaN instead of ranking it."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # it warns that it keeps all predictions, of which GLUE has 1,500
            warnings.filterwarnings("ignore", message="Metric `SpearmanCorrcoef` will save")
            super().__init__()

    @override
    def compute(self) -> Tensor:
        correlation: Tensor = super().compute()
        return correlation.masked_fill(dim_zero_cat(self.preds).isnan().any(), torch.nan)


MetricName = Literal["accuracy", "f1", "binary_f1", "matthews", "pearson", "spearman", "mse"]

_OF_CLASSES: dict[str, Callable[[int], Metric]] = {
    "accuracy": lambda classes: MulticlassAccuracy(classes, average="micro"),
    "f1": lambda classes: MulticlassF1Score(classes, average="macro"),
    "binary_f1": lambda _: BinaryF1Score(),
    "matthews": MatthewsCorrelation,
}
_OF_NUMBERS: dict[str, Callable[[], Metric]] = {
    "pearson": _PearsonCorrelation,
    "spearman": _SpearmanCorrelation,
    "mse": MeanSquaredError,
}


def named_metrics(names: Sequence[str] | None, num_labels: int) -> MetricCollection:
    """Return new metrics by name: `update` takes predictions and labels, both of shape (batch,).

    Args:
        names: For classes, `"accuracy"`, `"f1"` (the unweighted mean over the classes), `"binary_f1"` (of class 1 of
            two) and `"matthews"`; for numbers, `"pearson"`, `"spearman"` and `"mse"`. `None` for accuracy and F1, or
            Pearson correlation and mean squared error.
        num_labels: The number of classes; 1 for numbers.

    Raises:
        ConfigurationError: If a name is unknown, or a metric does not suit the labels.
    """
    if names is None:
        names = ["pearson", "mse"] if num_labels == 1 else ["accuracy", "f1"]
    if not names:
        raise ConfigurationError("Parameter `metrics` should name at least one metric. Found `metrics = []`.")
    metrics: dict[str, Metric] = {}
    for name in names:
        require_one_of("metrics", name, get_args(MetricName))
        if (name in _OF_NUMBERS) != (num_labels == 1) or (name == "binary_f1" and num_labels != 2):
            raise ConfigurationError(
                f"Parameter `metrics` should suit the labels. Found `{name}` for `num_labels = {num_labels}`."
            )
        metrics[name] = _OF_NUMBERS[name]() if num_labels == 1 else _OF_CLASSES[name](num_labels)
    return MetricCollection(metrics)  # type: ignore[arg-type]
