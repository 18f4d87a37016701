"""The metrics of classes, numbers and rankings against scikit-learn and scipy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error, ndcg_score

from lightning_sparsegrad.metrics import GroupedNDCG, MatthewsCorrelation, named_metrics
from tests.cases import cases

OF_CLASSES: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy_score,
    "f1": lambda target, preds: f1_score(target, preds, average="macro", zero_division=0),
    "matthews": matthews_corrcoef,
}
OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "pearson": lambda target, preds: pearsonr(target, preds)[0],
    "spearman": lambda target, preds: spearmanr(target, preds)[0],
    "mse": mean_squared_error,
}


@cases("classes", [2, 3, 5])
@cases("name", [*OF_CLASSES, "binary_f1"])
def test_metrics_of_classes(name: str, classes: int) -> None:
    if name == "binary_f1" and classes != 2:
        return
    reference: Callable[..., Any] = OF_CLASSES.get(name, lambda target, preds: f1_score(target, preds, zero_division=0))
    generator = torch.Generator().manual_seed(classes)
    for size in (60, 200):
        preds, target = torch.randint(0, classes, (2, size), generator=generator)
        preds[::3] = target[::3]
        metrics = named_metrics([name], classes)
        for half in (slice(0, 25), slice(25, None)):
            metrics.update(preds[half], target[half])
        expected: Any = reference(target.numpy(), preds.numpy())
        assert float(metrics.compute()[name]) == pytest.approx(expected, abs=1e-6)


@cases(
    ("preds", "target"),
    [([1] * 10, [1] * 7 + [0] * 3), ([0] * 10, [1] * 7 + [0] * 3), ([1] * 4, [1] * 4), ([1, 0], [1, 1]), ([2], [0])],
)
def test_a_constant_has_no_correlation(preds: list[int], target: list[int]) -> None:
    metric = MatthewsCorrelation(3)
    metric.update(torch.tensor(preds), torch.tensor(target))
    assert float(metric.compute()) == 0
    if len(set(preds + target)) > 1:
        assert matthews_corrcoef(target, preds) == 0


@cases("classes", [2, 3, 5])
@cases("rows", [3, 10, 1000, 16_777_217])
def test_a_constant_among_many_rows_has_exactly_none(classes: int, rows: int) -> None:
    predicted_alike = torch.zeros(classes, classes, dtype=torch.int64)
    predicted_alike[:, 1] = rows // torch.arange(1, classes + 1)
    for counts in (predicted_alike, predicted_alike.T):
        metric = MatthewsCorrelation(classes)
        metric.update(torch.tensor([1]), torch.tensor([1]))
        metric.confmat += counts
        assert float(metric.compute()) == 0


@cases("counts", [[[10_000_000, 3], [1, 2]], [[4_000_000, 1, 2], [3, 5, 0], [1, 0, 2]], [[1, 99_999], [0, 10_000_000]]])
def test_a_rare_class_counts_in_full(counts: list[list[int]]) -> None:
    metric = MatthewsCorrelation(len(counts))
    metric.update(torch.tensor([0]), torch.tensor([0]))
    metric.confmat += torch.tensor(counts) - metric.confmat
    pairs = [(actual, predicted) for actual in range(len(counts)) for predicted in range(len(counts))]
    actual, predicted = np.array(pairs).T
    weights = np.array([counts[row][column] for row, column in pairs])
    expected = matthews_corrcoef(actual, predicted, sample_weight=weights)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


def test_a_correlation_of_many_rows_does_not_overflow() -> None:
    metric = MatthewsCorrelation(2)
    metric.update(torch.tensor([0]), torch.tensor([0]))
    metric.confmat += torch.tensor([[3_000_000_000, 5], [7, 2_000_000_000]])
    assert float(metric.compute()) == pytest.approx(1, abs=1e-6)


@cases("name", OF_NUMBERS)
def test_metrics_of_numbers(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    preds, noise = torch.randn(2, 100, generator=generator)
    target = (preds + noise).round(decimals=0)  # with ties
    metrics = named_metrics([name], 1)
    metrics.update(preds[:40], target[:40])
    metrics.update(preds[40:], target[40:])
    expected = OF_NUMBERS[name](target.numpy(), preds.numpy())
    assert float(metrics.compute()[name]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.filterwarnings("ignore:The variance of predictions")  # Pearson's, of a NaN
@cases("name", OF_NUMBERS)
def test_a_prediction_that_is_no_number_has_no_score(name: str) -> None:
    metrics = named_metrics([name], 1)
    metrics.update(torch.arange(6.0), torch.arange(6.0))
    assert metrics.compute()[name].isfinite()
    metrics.update(torch.tensor([torch.nan]), torch.tensor([6.0]))
    assert metrics.compute()[name].isnan()


# ---------------------------------------------------------------- rankings
def grouped(preds: np.ndarray, target: np.ndarray, indexes: np.ndarray) -> float:
    """Compute XGLUE's evaluation query by query."""
    scores = [
        ndcg_score(target[None, indexes == query], preds[None, indexes == query])
        for query in np.unique(indexes)
        if (indexes == query).sum() >= 2
    ]
    return float(np.mean(scores))


@cases("ties", [False, True])
@cases("kind", [torch.int64, torch.float32])
def test_rankings(kind: torch.dtype, ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        indexes = torch.randint(0, 12, (40,), generator=generator)
        target = torch.randint(0, 5, (40,), generator=generator) * (indexes != 3)  # a query without a good answer
        preds = torch.rand(40, generator=generator)
        preds = (preds * 4).round() if ties else preds
        metric, order = GroupedNDCG(), torch.randperm(40, generator=generator)
        for rows in order.split(7):  # type: ignore[no-untyped-call]
            metric.update(preds[rows], target[rows].to(kind), indexes=indexes[rows])
        expected = grouped(preds.double().numpy(), target.double().numpy(), indexes.numpy())
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-5)


def test_processes_add_up_and_queries_may_be_spread_over_them() -> None:
    generator = torch.Generator().manual_seed(1)
    preds, target = torch.rand(30, generator=generator), torch.randint(0, 5, (30,), generator=generator)
    indexes = torch.randint(0, 6, (30,), generator=generator)
    parts = [GroupedNDCG(), GroupedNDCG()]
    for part, rows in zip(parts, (slice(0, 13), slice(13, 30)), strict=True):
        part.update(preds[rows], target[rows], indexes=indexes[rows])
    parts[0].merge_state(parts[1])
    expected = grouped(preds.double().numpy(), target.double().numpy(), indexes.numpy())
    assert float(parts[0].compute()) == pytest.approx(expected, rel=1e-5)
    parts[0].reset()
    parts[0].update(torch.tensor([0.3, 0.2]), torch.tensor([2, 0]), indexes=torch.tensor([0, 0]))
    assert float(parts[0].compute()) == 1


def test_queries_with_one_answer_do_not_count() -> None:
    metric = GroupedNDCG()
    metric.update(torch.tensor([0.1, 0.2]), torch.tensor([0, 4]), indexes=torch.tensor([0, 1]))
    assert float(metric.compute()) == 0
    metric.update(torch.tensor([0.3, 0.2]), torch.tensor([2, 0]), indexes=torch.tensor([7, 7]))
    assert float(metric.compute()) == 1


@pytest.mark.parametrize("query", [0, 7])
def test_a_score_that_is_no_number_has_no_ranking(query: int) -> None:
    metric = GroupedNDCG()
    metric.update(torch.tensor([0.3, 0.2]), torch.tensor([2, 0]), indexes=torch.tensor([0, 0]))
    metric.update(torch.tensor([torch.nan]), torch.tensor([1]), indexes=torch.tensor([query]))
    assert metric.compute().isnan()
