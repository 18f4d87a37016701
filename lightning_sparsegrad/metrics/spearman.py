"""Rank correlation that is undefined where a prediction is."""

import warnings

import torch
from torch import Tensor
from torchmetrics import SpearmanCorrCoef
from torchmetrics.utilities.data import dim_zero_cat


class SpearmanCorrelation(SpearmanCorrCoef):
    """Spearman's rank correlation; torchmetrics' own ranks predictions that are undefined, and can find them perfect.

    `update` takes numbers, of shape (batch,).

    Example:
        >>> metric = SpearmanCorrelation()
        >>> metric.update(torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([1.0, 2.0, 3.0]))
        >>> metric.compute()
        tensor(nan)
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():  # that it keeps all predictions, of which GLUE has 1,500
            warnings.filterwarnings("ignore", message="Metric `SpearmanCorrcoef` will save")
            super().__init__()

    def compute(self) -> Tensor:
        """Return the correlation, in [-1, 1], a scalar."""
        if dim_zero_cat(self.preds).isnan().any():
            return torch.full((), torch.nan, device=self.device)
        return super().compute()
