"""The base of tasks with a pretrained transformer: model loading, optimizers, steps, evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection
from typing_extensions import override

import lightning_sparsegrad.untrusted._jsonargparse  # noqa: F401  # makes every parser restrict what `optimizer` may call
from lightning_sparsegrad.components import find_blocks
from lightning_sparsegrad.data._checks import listed
from lightning_sparsegrad.data._classes import are_same
from lightning_sparsegrad.data._task_kinds import Task
from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.data.samplers import is_filler
from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.functional.sharding import is_spread
from lightning_sparsegrad.hub._names import resolve_source
from lightning_sparsegrad.hub._network import how_without
from lightning_sparsegrad.modules._description import (
    MODEL_KEY,
    describe,
    describe_tokens,
    name_classes,
    tokens_in,
)
from lightning_sparsegrad.modules._evaluation import Evaluation, loaders_of
from lightning_sparsegrad.modules._limits import is_on_cpu, require_fit
from lightning_sparsegrad.modules._numbers import check_optimizer
from lightning_sparsegrad.modules._padding import (
    find_padding,
    set_padding,
    settle_padding,
    with_padding_of,
)
from lightning_sparsegrad.modules._pretrained import DType, check_dtype, dtypes_of, load_pretrained, warn_of_dtypes
from lightning_sparsegrad.modules._probe import embed, run
from lightning_sparsegrad.modules._schedulers import Interval, Scheduling, made
from lightning_sparsegrad.modules.base import SparseGradModule, trainer_of
from lightning_sparsegrad.resume._checkpoints import LABEL_NAMES, names_in
from lightning_sparsegrad.transforms.base import GradientTransform

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, Any]

_LEARNING_RATE = "lightning_sparsegrad_learning_rate"  # in checkpoints


class TransformerTask(SparseGradModule, Task, ABC):
    """Abstract task that fine-tunes a pretrained transformer with a head.

    A subclass defines the head (`auto_model`), the metrics (`metrics`, `measure`) and the predictions (`predict`). A
    batch is a dict of the model's inputs and of further entries that only the task reads (`beside`).

    The task logs `train/loss`, and for validation and test the loss and the metrics under names such as
    `val/accuracy`. If the data have several parts (a dict of loaders), it logs them for each part (`val/accuracy/de`);
    as `val/accuracy/mean`, the unweighted mean over the parts; and, if the data have a `train_language`, as
    `val/accuracy/mean_unseen`, the mean over the other parts.

    A checkpoint stores the `label_names` of its training data, and is refused for data with other names, since its
    classes would be mistaken for others. Data without names take those of the checkpoint, so that it can predict or
    evaluate rows without its training data.

    Under `ModelParallelStrategy`, each block of the transformer is sharded, then the remaining parameters (FSDP2).

    Args:
        model_name_or_path: Hub id, local folder, or `package:<distribution>/<folder inside it>` of a model or of a PEFT
            adapter. An adapter trains with the modules saved in it; its base model does not train.
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        config: Values that the subclass sets in the model's configuration.
        optimizer: A function from the parameter groups to the optimizer. Biases and norms (all parameters with fewer
            than two dimensions) form a separate group without weight decay.
        lr_scheduler: A function from the optimizer to the scheduler: a class of `torch.optim.lr_scheduler`,
            `LinearDecay`, a `get_*_schedule*` of transformers, or a function annotated to return a scheduler.
            `total_steps` and `num_training_steps` are set from the run. `None` keeps the learning rate constant.
        lr_scheduler_interval: Whether to step it after every optimizer `"step"` (the default) or after every `"epoch"`
            (the default for a `ReduceLROnPlateau`).
        lr_scheduler_frequency: The number of steps or epochs between its steps, at least 1.
        lr_scheduler_monitor: The metric that a `ReduceLROnPlateau` watches, such as `val/loss`.
        skip_dropped: Whether to skip work on gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do in a window whose gradients are not finite: `"propagate"`, `"skip"` or `"raise"`, see
            `GradientEngine`.
        dtype: The dtype in which weights train, whatever they are stored in: most weights in half precision are too
            coarse for the update of a step to change them. `"auto"` keeps the stored dtype. `precision="bf16-true"` of
            the Trainer converts the module itself. The weights of an adapter on a base model in half precision are
            float32.

    Attributes:
        lr: Learning rate of all parameters, which overrides the optimizer's unless it is `None`. `LearningRateFinder`
            and `Tuner.lr_find` set it. A resumed fit takes it from the checkpoint, unless its optimizer has another
            learning rate than before.

    Raises:
        ConfigurationError: If there is no such model, or its head has other labels; if a checkpoint was trained on
            other labels than the data's; if an adapter does not fit its base model, or PEFT is not installed.
    """

    auto_model: ClassVar[Any]
    """The class of `transformers` that loads the model with its head."""

    beside: ClassVar[tuple[str, ...]] = ()
    """Names of entries in a batch that only the task reads, not the model."""

    targets: ClassVar[tuple[str, ...]] = ("labels",)
    """Names of entries in a batch that are targets, which a prediction ignores."""

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
        dtype: DType = "float32",
    ) -> None:
        check_dtype(dtype)
        super().__init__(gradient_transform=gradient_transform, skip_dropped=skip_dropped, nonfinite=nonfinite)
        stepping = {
            "interval": lr_scheduler_interval,
            "frequency": lr_scheduler_frequency,
            "monitor": lr_scheduler_monitor,
        }
        left_out = ["config", *(f"lr_scheduler_{name}" for name, value in stepping.items() if value is None)]
        self.save_hyperparameters(ignore=left_out)
        for name in ("gradient_transform", "optimizer", "lr_scheduler"):
            # the command line stores their configs; objects could not be loaded with `weights_only`
            if isinstance(self.hparams[name], GradientTransform) or callable(self.hparams[name]):
                self.hparams.pop(name)
                left_out.append(name)
        self.save_hyperparameters(ignore=left_out)  # again, since loggers write these
        self.model_name_or_path = model_name_or_path
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._scheduling = Scheduling(lr_scheduler, **stepping)  # type: ignore[arg-type]  # their types differ
        self.lr: float | None = None
        self._lr_overridden: list[float] | None = None  # by parameter group
        self.model = _load(self.auto_model, model_name_or_path, config, dtype)
        self.trained_names: list[str] | None = None
        """The names of the classes in the training data; empty for numbers, `None` if they are not known."""
        self._restored_dtypes: dict[str, torch.dtype] = {}
        self._tokens: dict[str, Any] = {}  # settings of its tokenizer

    @abstractmethod
    def metrics(self, part: str | None) -> MetricCollection:
        """Return new metrics for a part of the data; `None` stands for data without parts."""

    @abstractmethod
    def measure(self, metrics: MetricCollection, output: Any, batch: Batch) -> None:
        """Update the metrics with the model's output for a batch."""

    @abstractmethod
    def predict(self, output: Any, batch: Batch) -> dict[str, Any]:
        """Return the predictions for a batch: `predictions` with one entry per row, and further outputs."""

    def names_logged(self) -> dict[str, bool | None]:
        """Return the names that the running fit logs, and whether a higher value is better, if known."""
        return {"train/loss": False, **self._new_evaluation(self.trainer.val_dataloaders or []).names("val")}

    def weight(self, batch: Batch) -> int | Tensor:
        """Return the number of examples over which the loss of a batch is a mean."""
        return len(batch["input_ids"])

    @override
    def forward(self, batch: Batch) -> Any:
        """Return the model's output for a batch: logits, and the loss if the batch has labels."""
        inputs = {name: value for name, value in batch.items() if name not in self.beside}
        try:
            return self.model(**with_padding_of(self.model, inputs))
        except (IndexError, RuntimeError):
            self._require_fit(inputs, run)
            raise

    @override
    def setup(self, stage: str) -> None:
        """Set the padding token to that of the data, and check that their rows fit the model."""
        from transformers import PreTrainedTokenizerBase

        super().setup(stage)
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
        tokenizer = getattr(data, "tokenizer", None)
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            settle_padding(self.model, tokenizer)
            self._tokens = describe_tokens(data, self.model_name_or_path)
        if isinstance(data, TokenizedDataModule):
            for batch in data.extreme_batches(stage):
                self._require_fit(batch)

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.trained_names = self._names_of_data()
        if self.trainer.ckpt_path:  # after the Trainer has converted the module
            warn_of_dtypes(self, self._restored_dtypes)
        name_classes(self.model.config, self.trained_names)

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        for config in self.trainer.lr_scheduler_configs:  # a checkpoint may have restored them
            self._scheduling.check(config.scheduler)
        self._scheduling.check_monitor(self.trainer)

    @override
    def on_predict_start(self) -> None:
        super().on_predict_start()
        self._require_label_names()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.trained_names is not None:
            checkpoint[LABEL_NAMES] = self.trained_names
        if self.lr is not None:
            checkpoint[_LEARNING_RATE] = {"lr": self.lr, "overridden": self._lr_overridden}
        checkpoint[MODEL_KEY] = describe(self.model, self._tokens)
        for callback in getattr(
            trainer_of(self), "callbacks", ()
        ):  # Lightning does not call them if only weights are saved
            if store := getattr(callback, "store_config", None):
                store(checkpoint)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._restored_dtypes = dtypes_of(checkpoint.get("state_dict") or {})
        self.trained_names = names_in(checkpoint)
        name_classes(self.model.config, self.trained_names)
        described = checkpoint.get(MODEL_KEY)
        if described and not self._tokens:  # otherwise the data have set it
            set_padding(self.model, described["padding"])
            self._tokens = tokens_in(described)
        if (trainer := trainer_of(self)) is not None:
            self._require_label_names()
            if trainer.state.fn == TrainerFn.FITTING and self.lr is None and _LEARNING_RATE in checkpoint:
                self.lr, self._lr_overridden = checkpoint[_LEARNING_RATE].values()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss: Tensor = self(batch).loss
        self.log("train/loss", loss, batch_size=len(batch["input_ids"]))
        return loss

    @override
    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.val_dataloaders)

    @override
    def on_test_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.test_dataloaders)

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, batch_idx, dataloader_idx)

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, batch_idx, dataloader_idx)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    @override
    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return the result of `predict`, without reading labels; empty for a filler, see `UnrepeatedSampler`."""
        predicted = self.predict(
            self({name: value for name, value in batch.items() if name not in self.targets}), batch
        )
        loaders = loaders_of(getattr(trainer_of(self), "predict_dataloaders", None))
        if dataloader_idx < len(loaders) and is_filler(loaders[dataloader_idx], batch_idx):
            return {name: value[:0] if isinstance(value, list | Tensor) else value for name, value in predicted.items()}
        return predicted

    @override
    def configure_model(self) -> None:
        """Shard the model if the strategy has a device mesh: each block of the transformer, then the rest."""
        mesh = self.device_mesh
        if mesh is None or any(map(is_spread, self.parameters())):
            return
        from torch.distributed.fsdp import fully_shard

        if mesh["tensor_parallel"].size() > 1:
            raise ConfigurationError(
                f"Parameter `tensor_parallel_size` of the strategy should be 1 for `{type(self).__name__}`. "
                f"Found `tensor_parallel_size = {mesh['tensor_parallel'].size()}`."
            )
        for block in find_blocks(self.model):
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(self.model, mesh=mesh["data_parallel"])

    @override
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
        self._override_learning_rate(optimizer)
        check_optimizer(optimizer, is_scheduled=self.lr_scheduler is not None)
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._scheduling.configure(optimizer, self.trainer)}

    def _override_learning_rate(self, optimizer: Optimizer) -> None:
        own = [float(group["lr"]) for group in optimizer.param_groups]
        resumes = getattr(trainer_of(self), "ckpt_path", None)
        if resumes and self._lr_overridden not in (None, own):  # a new one was given and wins
            self.lr = None
        self._lr_overridden = None if self.lr is None else own
        for group in optimizer.param_groups if self.lr is not None else ():
            group["lr"] = self.lr

    def _names_of_data(self) -> list[str] | None:
        """Return the names of the classes in the data, or `None` if they are not known."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
        try:
            names = getattr(data, "label_names", None)
            is_known = names or getattr(data, "num_labels", None) == 1
        except ConfigurationError:  # rows to predict need no labels
            return None
        return [str(name) for name in names or ()] if is_known else None

    def _require_label_names(self) -> None:
        known, of_data = self.trained_names, self._names_of_data()
        if known is None or of_data is None or known == of_data:
            return
        if not known or not of_data or not are_same(known, of_data):
            raise ConfigurationError(
                f"Data should have the labels that the model was trained on, in the same order: "
                f"{listed(known) if known else 'numbers'}. Found {listed(of_data) if of_data else 'numbers'}."
            )

    def _require_fit(self, batch: Batch, attempt: Callable[[nn.Module, Batch], Any] = embed) -> None:
        """Check that the model has embeddings and positions for a batch, if that can be tried."""
        if is_on_cpu(self.model):
            left_out = {*self.beside, *self.targets}
            inputs = {name: value for name, value in batch.items() if name not in left_out}
            made = {name: self._tokens.get(name) for name in ("tokenizer", "max_length")}
            require_fit(self.model, inputs, name=self.model_name_or_path, attempt=attempt, **made)

    def _start_evaluation(self, loaders: Any) -> None:
        if self.trainer.state.fn != "fit":
            self._require_label_names()
        self._evaluation = self._new_evaluation(loaders)

    def _new_evaluation(self, loaders: Any) -> Evaluation:
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
        seen = getattr(data, "train_language", None)
        return Evaluation(loaders, self.metrics, device=self.device, seen=seen)

    def _evaluate(self, batch: Batch, batch_idx: int, index: int) -> None:
        output = self(batch)
        self.measure(self._evaluation.update(index, batch_idx, output.loss, self.weight(batch)), output, batch)

    def _log_evaluation(self, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self._evaluation.compute().items()}
        self.log_dict(values, sync_dist=True, reduce_fx="max")  # the metrics are reduced over processes already


def _load(auto_model: Any, name: str, config: Mapping[str, Any], dtype: DType) -> "PreTrainedModel":
    path = resolve_source(name)
    try:
        model = load_pretrained(auto_model, path, config, dtype)
    except ConfigurationError:
        raise
    except Exception as error:
        # not found, not a text model, another number of labels, a pickle with more than tensors; broken files may raise
        # anything
        labels = f" for `num_labels = {config['num_labels']}`" if "num_labels" in config else ""
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should be a reachable hub id, a local folder, or "
            f"`package:<distribution>/<folder>`, of a text model without a head or with one{labels}. "
            f"Found `{name}`: {reason_of(error)}{how_without(path, 'model')}"
        ) from error
    find_padding(model, path)
    model.train()  # it is loaded in evaluation mode, which Lightning would keep, without dropout
    return model
