"""A weighted mean that does not ignore NaN."""

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override


class WeightedMean(Metric):
    r"""The weighted mean :math:`\sum_i w_i x_i / \sum_i w_i` of numbers such as the losses of batches.

    A number of weight 0, such as the loss of a batch without a label, does not count, even if it is NaN. Any other
    number that is not finite makes the mean non-finite, as for a run that diverged. `MeanMetric` of torchmetrics 1.9
    ignores such numbers, or with another setting ignores the weights.

    Example:
        >>> mean = WeightedMean()
        >>> mean.update(torch.tensor(1.0), 3)
        >>> mean.update(torch.tensor(5.0), 1)
        >>> mean.compute()
        tensor(2.)
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    weight: Tensor
    numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight", "numbers"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")

    @override
    def update(self, value: Tensor, weight: float | Tensor) -> None:
        """Add a number (a scalar tensor) with its weight."""
        has_none = torch.as_tensor(weight == 0, device=value.device)
        self.total += (value.float() * weight).masked_fill(has_none, 0.0)  # NaN times 0 is NaN
        self.weight += weight
        self.numbers += 1

    def was_updated(self) -> bool:
        """Return whether any process added a number; all processes must call it."""
        with self.sync_context():
            return bool(self.numbers > 0)

    @override
    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar; NaN without numbers."""
        return self.total / self.weight
