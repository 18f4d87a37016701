import pytest
import torch

from lightning_sparsegrad.metrics import WeightedMean
from tests.cases import cases

NAN, INFINITY = float("nan"), float("inf")


@cases("as_tensors", [False, True])
@cases(
    ("values", "weights", "expected"),
    [
        ([1.0, 5.0], [3, 1], 2.0),
        ([NAN, 5.0], [0, 1], 5.0),
        ([INFINITY, 5.0], [0, 2], 5.0),
        ([NAN, 5.0], [1, 1], NAN),
        ([INFINITY, 5.0], [1, 1], INFINITY),
        ([NAN], [0], NAN),
        ([2.0, 4.0], [0.5, 1.5], 3.5),
    ],
)
def test_what_has_a_weight_counts(
    values: list[float], weights: list[float], expected: float, *, as_tensors: bool
) -> None:
    mean = WeightedMean()
    for value, weight in zip(values, weights, strict=True):
        mean.update(torch.tensor(value), torch.tensor(weight) if as_tensors else weight)
    assert float(mean.compute()) == pytest.approx(expected, nan_ok=True)
