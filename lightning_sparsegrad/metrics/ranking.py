"""The ranking metric nDCG, by query."""

import torch
from torch import Tensor
from torchmetrics.functional.retrieval import retrieval_normalized_dcg
from torchmetrics.retrieval import RetrievalNormalizedDCG
from torchmetrics.utilities.data import dim_zero_cat
from typing_extensions import override

_LEAST = 2  # answers


class GroupedNDCG(RetrievalNormalizedDCG):
    r"""Normalized discounted cumulative gain, the mean over the queries with at least two answers.

    .. math:: \mathrm{nDCG} = \frac{\sum_r g_r / \log_2(r + 1)}{\sum_r g^*_r / \log_2(r + 1)}

    for the grade :math:`g_r` of the answer at rank :math:`r` by score, and :math:`g^*_r` in the best order. Answers
    with equal scores share the mean gain of their ranks; a query whose answers all have grade 0 counts as 0. It is
    scikit-learn's `ndcg_score`, with which XGLUE evaluates web page ranking. If any score is NaN, the result is NaN.

    `update` takes `preds`, the scores, `target`, the grades from 0 on, and `indexes`, the query of each, int64, all of
    shape (batch,).

    References:
        Kalervo Järvelin, Jaana Kekäläinen. Cumulated gain-based evaluation of IR techniques. 2002.
        https://doi.org/10.1145/582415.582418
        Yaobo Liang et al. XGLUE. EMNLP 2020. https://arxiv.org/abs/2004.01401, and its `xglue_evaluate.py`.

    Example:
        >>> metric = GroupedNDCG()
        >>> scores, grades = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([0, 1, 3])
        >>> metric.update(scores, grades, indexes=torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor(0.6309)
    """

    def __init__(self) -> None:
        super().__init__()

    @override
    def compute(self) -> Tensor:
        """Return the mean, in [0, 1], a float32 scalar; NaN if a score is, 0 if no query has two answers."""
        indexes, preds, target = (dim_zero_cat(state) for state in (self.indexes, self.preds, self.target))
        if not len(indexes):
            return torch.tensor(0.0)
        _, query, counts = torch.unique(indexes, return_inverse=True, return_counts=True)
        kept = counts[query] >= _LEAST
        if not kept.any():
            return torch.zeros((), device=indexes.device)
        order = query[kept].argsort(stable=True)
        sizes = counts[counts >= _LEAST].tolist()
        groups = zip(preds[kept][order].split(sizes), target[kept][order].split(sizes), strict=True)  # type: ignore[no-untyped-call]
        mean = torch.stack([retrieval_normalized_dcg(scores, grades) for scores, grades in groups]).mean()
        return mean.masked_fill(preds.isnan().any(), torch.nan)
