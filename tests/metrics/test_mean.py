"""The mean of losses."""

import torch

from lightning_sparsegrad.metrics import WeightedMean


def test_what_has_no_weight_does_not_count() -> None:
    mean = WeightedMean()
    mean.update(torch.tensor(2.0), 3)
    mean.update(torch.tensor(torch.nan), torch.tensor(0))
    assert mean.compute() == 2
    mean.update(torch.tensor(torch.nan), 1)
    assert mean.compute().isnan()
