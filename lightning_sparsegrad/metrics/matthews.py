"""Matthews correlation that is zero where it is undefined."""

from math import sqrt
from operator import mul

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override


class MatthewsCorrelation(MulticlassConfusionMatrix):
    r"""Matthews correlation coefficient of two classes or more, CoLA's metric.

    .. math:: R = \frac{c - \sum_k p_k t_k}{\sqrt{(1 - \sum_k p_k^2)(1 - \sum_k t_k^2)}}

    for the shares :math:`c` of rows that are right, :math:`p_k` that are predicted to be of class :math:`k` and
    :math:`t_k` that are. `update` takes classes, int64 of shape (batch,).

    Args:
        num_classes: The number of classes, two or more.

    Note:
        Where all rows are predicted alike, or are alike, it is 0, as GLUE's evaluation and scikit-learn have it.
        `torchmetrics.MatthewsCorrCoef` is not: for a model that always answers the larger class of 7 and 3 it is 0.28,
        so that a run that failed would not look like one.

    References:
        Jan Gorodkin. Comparing two K-category assignments by a K-category correlation coefficient. 2004, equation 8.
        https://doi.org/10.1016/j.compbiolchem.2004.09.006

    Example:
        >>> metric = MatthewsCorrelation(2)
        >>> metric.update(torch.tensor([1, 1, 1, 1]), torch.tensor([1, 1, 1, 0]))
        >>> metric.compute()
        tensor(0.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    @override
    def compute(self) -> Tensor:
        """Return the coefficient, in [-1, 1]: a float32 scalar."""
        counts: list[list[int]] = super().compute().tolist()  # integers of Python are exact, and of any size
        rows = sum(map(sum, counts))
        predicted, actual = [sum(column) for column in zip(*counts, strict=True)], [sum(row) for row in counts]
        right = sum(row[place] for place, row in enumerate(counts))
        by_chance = sum(map(mul, predicted, actual))
        spread = (rows**2 - sum(map(mul, predicted, predicted))) * (rows**2 - sum(map(mul, actual, actual)))
        found = (right * rows - by_chance) / sqrt(spread) if spread else 0.0
        return torch.tensor(found, dtype=torch.float32, device=self.confmat.device)
