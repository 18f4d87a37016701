"""Matthews correlation that is zero where it is undefined."""

from math import sqrt
from operator import mul

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override


class MatthewsCorrelation(MulticlassConfusionMatrix):
    r"""Matthews correlation coefficient of two or more classes, the metric of CoLA.

    .. math:: R = \frac{c - \sum_k p_k t_k}{\sqrt{(1 - \sum_k p_k^2)(1 - \sum_k t_k^2)}}

    for the shares :math:`c` of rows predicted correctly, :math:`p_k` of rows predicted as class :math:`k`, and
    :math:`t_k` of rows of class :math:`k`. `update` takes classes, int64 of shape (batch,).

    Args:
        num_classes: The number of classes, at least two.

    Note:
        It is 0 if all rows are predicted as one class, or are of one class, as in GLUE's evaluation and scikit-learn.
        `torchmetrics.MatthewsCorrCoef` is not 0 then: for a model that always predicts the larger class of 7 and 3 rows
        it is 0.28, which hides that a run failed.

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
        counts: list[list[int]] = super().compute().tolist()  # Python's integers do not overflow
        rows = sum(map(sum, counts))
        predicted, actual = [sum(column) for column in zip(*counts, strict=True)], [sum(row) for row in counts]
        right = sum(row[index] for index, row in enumerate(counts))
        by_chance = sum(map(mul, predicted, actual))
        spread = (rows**2 - sum(map(mul, predicted, predicted))) * (rows**2 - sum(map(mul, actual, actual)))
        coefficient = (right * rows - by_chance) / sqrt(spread) if spread else 0.0
        return torch.tensor(coefficient, dtype=torch.float32, device=self.confmat.device)
