"""Metrics that torchmetrics lacks, with states that are reduced over processes like its own."""

from lightning_sparsegrad.metrics.answers import AnswerExactMatch, AnswerF1, normalize_answer
from lightning_sparsegrad.metrics.matthews import MatthewsCorrelation
from lightning_sparsegrad.metrics.mean import WeightedMean
from lightning_sparsegrad.metrics.named import MetricName, named_metrics
from lightning_sparsegrad.metrics.ranking import GroupedNDCG
from lightning_sparsegrad.metrics.spans import SpanF1, SpanPrecision, SpanRecall

__all__ = [
    "AnswerExactMatch",
    "AnswerF1",
    "GroupedNDCG",
    "MatthewsCorrelation",
    "MetricName",
    "SpanF1",
    "SpanPrecision",
    "SpanRecall",
    "WeightedMean",
    "named_metrics",
    "normalize_answer",
]
