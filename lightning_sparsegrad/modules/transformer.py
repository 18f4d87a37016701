"""What every task with a pretrained transformer shares: loading, optimizers, steps, evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection
from transformers import PreTrainedModel

import lightning_sparsegrad._jsonargparse  # noqa: F401  # any parser then calls of `optimizer` what makes one
from lightning_sparsegrad.components import find_blocks
from lightning_sparsegrad.data.checks import listed
from lightning_sparsegrad.data.labels import are_ids
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.hub import how_without, is_unreachable
from lightning_sparsegrad.modules.base import SparseGradModule
from lightning_sparsegrad.modules.evaluation import Evaluation
from lightning_sparsegrad.modules.schedulers import Interval, Scheduling, made
from lightning_sparsegrad.nonfinite import NonFinite
from lightning_sparsegrad.sources import resolve_source
from lightning_sparsegrad.transforms.base import GradientTransform

Batch = dict[str, Any]

_LABEL_NAMES = "lightning_sparsegrad_label_names"  # in checkpoints


class TransformerTask(SparseGradModule, ABC):
    """Abstract task: fine-tune a pretrained transformer with a head.

    A subclass names the head (`auto_model`), and says what is measured (`metrics`, `measure`) and what is predicted
    (`predict`). A batch is a dict of what the model takes and of what the task reads besides (`beside`).

    Logs `train/loss`; and for validation and test `loss` and the metrics, as `val/accuracy` and so on. Where the data
    has several parts, a dict of loaders, each has its own: `val/accuracy/de`; then `val/accuracy/mean`, the unweighted
    mean over the parts, and, where the data names its `train_language`, `val/accuracy/mean_unseen` over all but that.

    A checkpoint holds the `label_names` of the data it was trained on, and is refused for data with others: its classes
    would be taken for one another.

    Under `ModelParallelStrategy` each block of the transformer is sharded, then what is left (FSDP2).

    Args:
        model_name_or_path: Hub id, local folder, or `package:<distribution>/<folder inside it>`.
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        config: What the subclass sets in the model's configuration.
        optimizer: Called with the parameter groups. Biases and norms (all parameters of fewer than two dimensions) are
            a group of their own, without weight decay.
        lr_scheduler: Called with the optimizer: a class of `torch.optim.lr_scheduler`, `LinearDecay`, a
            `get_*_schedule*` of transformers, or a function annotated to return a scheduler. `total_steps` and
            `num_training_steps` are filled in from the run. `None` keeps the learning rate.
        lr_scheduler_interval: Whether it is stepped after every optimizer `"step"`, the default, or after every
            `"epoch"`, the default for a `ReduceLROnPlateau`.
        lr_scheduler_frequency: It is stepped once in so many steps or epochs, at least 1.
        lr_scheduler_monitor: What a `ReduceLROnPlateau` watches, such as `val/loss`.
        skip_dropped: Whether to leave out the work on gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do in a window whose gradients are not finite: `"propagate"`, `"skip"` or `"raise"`, see
            `GradientEngine`.

    Raises:
        ConfigurationError: If there is no such model, or its head has other labels; if a checkpoint was trained on
            other labels than the data's.
    """

    auto_model: ClassVar[Any]
    """The class of `transformers` that loads the model with its head."""

    beside: ClassVar[tuple[str, ...]] = ()
    """What batches hold for the task alone, and not for the model."""

    targets: ClassVar[tuple[str, ...]] = ("labels",)
    """What batches hold to learn from, which a prediction does not look at."""

    def __init__(
        self,
        model_name_or_path: str,
        gradient_transform: GradientTransform,
        *,
        config: Mapping[str, Any],
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=2e-5, weight_decay=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Interval | None = None,
        lr_scheduler_frequency: int | None = None,
        lr_scheduler_monitor: str | None = None,
        skip_dropped: bool = True,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        super().__init__(gradient_transform=gradient_transform, skip_dropped=skip_dropped, nonfinite=nonfinite)
        stepping = {
            "interval": lr_scheduler_interval,
            "frequency": lr_scheduler_frequency,
            "monitor": lr_scheduler_monitor,
        }
        left_out = [f"lr_scheduler_{name}" for name, value in stepping.items() if value is None]
        self.save_hyperparameters(ignore=["config", *left_out])
        for name in ("gradient_transform", "optimizer", "lr_scheduler"):
            # the command line stores what they were parsed from; objects would keep `weights_only` from loading
            if isinstance(self.hparams[name], GradientTransform) or callable(self.hparams[name]):
                self.hparams.pop(name)
        self._hparams_initial = deepcopy(self.hparams)  # these are what loggers write
        self.model_name_or_path = model_name_or_path
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._scheduling = Scheduling(lr_scheduler, **stepping)  # type: ignore[arg-type]  # each has its own type
        self.model = _load(self.auto_model, model_name_or_path, config)
        self._label_names: list[str] | None = None  # of the data it was trained on

    @abstractmethod
    def metrics(self, part: str | None) -> MetricCollection:
        """Return new metrics for a part of the data; `None` if it has none."""

    @abstractmethod
    def measure(self, metrics: MetricCollection, output: Any, batch: Batch) -> None:
        """Update the metrics with what the model says of a batch."""

    @abstractmethod
    def predict(self, output: Any, batch: Batch) -> dict[str, Any]:
        """Return what the model says of a batch: `predictions` with one entry per row, and what else there is."""

    def weight(self, batch: Batch) -> int | Tensor:
        """Return how many examples the loss of a batch is the mean of."""
        return len(batch["input_ids"])

    def forward(self, batch: Batch) -> Any:
        """Return what the model makes of a batch: logits, and the loss if the batch has labels."""
        return self.model(**{name: value for name, value in batch.items() if name not in self.beside})

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._label_names = self._names_of_data()

    def on_train_start(self) -> None:
        super().on_train_start()
        for config in self.trainer.lr_scheduler_configs:  # as a checkpoint may have restored them
            self._scheduling.check(config.scheduler)

    def on_predict_start(self) -> None:
        super().on_predict_start()
        self._require_label_names()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._label_names:
            checkpoint[_LABEL_NAMES] = self._label_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint.get("hyper_parameters") or {}  # of a task that takes names
        self._label_names = checkpoint.get(_LABEL_NAMES) or stored.get("label_names")
        if self._trainer is not None:
            self._require_label_names()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss: Tensor = self(batch).loss
        self.log("train/loss", loss, batch_size=len(batch["input_ids"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.test_dataloaders)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        self._evaluate(batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        self._evaluate(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:  # noqa: ARG002
        """Return what `predict` returns, whatever the labels."""
        return self.predict(self({name: value for name, value in batch.items() if name not in self.targets}), batch)

    def configure_model(self) -> None:
        """Shard the model if the strategy has a mesh for it: each block of the transformer, then the rest."""
        mesh = self.device_mesh
        if mesh is None or any(isinstance(parameter, DTensor) for parameter in self.parameters()):
            return
        if mesh["tensor_parallel"].size() > 1:
            raise ConfigurationError(
                f"Parameter `tensor_parallel_size` of the strategy should be 1 for `{type(self).__name__}`. "
                f"Found `tensor_parallel_size = {mesh['tensor_parallel'].size()}`."
            )
        for block in find_blocks(self.model):
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(self.model, mesh=mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
        others = [parameter for parameter in parameters if parameter.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer: Any = made("optimizer", self.optimizer, groups)
        if not isinstance(optimizer, Optimizer):
            raise ConfigurationError(
                f"Parameter `optimizer` should make an optimizer of torch. Found `{type(optimizer).__name__}`."
            )
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._scheduling.configure(optimizer, self.trainer)}

    def _names_of_data(self) -> list[str] | None:
        """Return the names of the classes of the data, `None` where they are not known."""
        try:
            names = getattr(self.trainer.datamodule, "label_names", None)  # type: ignore[attr-defined]  # set by its connector
        except ConfigurationError:  # rows to predict need no labels
            return None
        return [str(name) for name in names] if names else None

    def _require_label_names(self) -> None:
        known, found = self._label_names, self._names_of_data()
        if known and found and known != found and not (are_ids(known) or are_ids(found)):
            raise ConfigurationError(
                f"Data should have the labels that the model was trained on, in the same order: {listed(known)}. "
                f"Found {listed(found)}."
            )

    def _start_evaluation(self, loaders: Any) -> None:
        if self.trainer.state.fn != "fit":
            self._require_label_names()
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
        seen = getattr(data, "train_language", None)
        self._evaluation = Evaluation(loaders, self.metrics, device=self.device, seen=seen)

    def _evaluate(self, batch: Batch, index: int) -> None:
        output = self(batch)
        self.measure(self._evaluation.update(index, output.loss, self.weight(batch)), output, batch)

    def _log_evaluation(self, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self._evaluation.compute().items()}
        self.log_dict(values, sync_dist=True, reduce_fx="max")  # the metrics are those of all processes already


def _load(auto_model: Any, name: str, config: Mapping[str, Any]) -> PreTrainedModel:
    path = resolve_source(name)
    try:
        model: PreTrainedModel = auto_model.from_pretrained(
            path, local_files_only=is_unreachable(path, "model"), **config
        )
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        # not found, no text model, another number of labels, a pickle of more than tensors
        labels = f" for `num_labels = {config['num_labels']}`" if "num_labels" in config else ""
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should be a hub id that can be reached, a local folder, or "
            f"`package:<distribution>/<folder>`, of a text model without a head or with one{labels}. "
            f"Found `{name}`: {str(error).splitlines()[0]}{how_without(path, 'model')}"
        ) from error
    if model.config.pad_token_id is None:  # GPT-2: its data is padded with the end token
        model.config.pad_token_id = model.config.eos_token_id
    model.train()  # it comes in evaluation mode, which Lightning would keep: no dropout
    return model
