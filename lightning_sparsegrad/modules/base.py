"""The base of all modules, which owns a gradient engine and runs it in `on_after_backward`."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.loops._lightning import set_trainer
from lightning_sparsegrad.loops._lightning_adapter import AdapterOwner, LightningAdapter
from lightning_sparsegrad.loops._refusals import require_super
from lightning_sparsegrad.resume._gate import CheckpointGate
from lightning_sparsegrad.resume._searches import Searches
from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.untrusted._strangers import LoadedFromStrangers


class SparseGradModule(LoadedFromStrangers, AdapterOwner, LightningModule):
    """A LightningModule whose gradients pass through a transform once per optimizer step.

    Subclass it like any LightningModule. The transform sees the whole gradient: after all micro-batches of an
    accumulation window, and after ranks have averaged theirs. Under manual optimization, call
    `apply_gradient_transform_()` after the last `manual_backward` and before the first `optimizer.step()` that uses the
    gradients.

    A subclass may override the hooks below if it calls super(); otherwise defining the class raises an error.

    Args:
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        skip_dropped: Whether to skip work on gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do in a window whose gradients are not finite: `"propagate"`, `"skip"` or `"raise"`, see
            `GradientEngine`.

    Raises:
        ConfigurationError: If `gradient_transform` is not a transform; if a subclass overrides a hook without calling
            `super()`; at the start of a fit, if the transform cannot work on this model or with this Trainer.

    Example:
        >>> import torch
        >>> from lightning_sparsegrad import GradDrop
        >>> class MyTask(SparseGradModule):
        ...     def __init__(self, gradient_transform: GradientTransform) -> None:
        ...         super().__init__(gradient_transform=gradient_transform)
        ...         self.model = torch.nn.Linear(8, 1)
        >>> MyTask(GradDrop(rate=0.2)).gradient_transform
        GradDrop(rate=0.2)
    """

    def __init__(
        self, *, gradient_transform: GradientTransform, skip_dropped: bool = True, nonfinite: NonFinite = "propagate"
    ) -> None:
        super().__init__()
        self._loop_adapter = LightningAdapter(
            gradient_transform,
            owner=type(self).__name__,
            gate=CheckpointGate(),
            skip_dropped=skip_dropped,
            nonfinite=nonfinite,
        )

    @override
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_super(cls, SparseGradModule)

    @property
    def gradient_transform(self) -> GradientTransform:
        """The strategy, as given."""
        return self._loop_adapter.transform

    @property
    def gradient_engine(self) -> GradientEngine:
        """The engine, available from the start of a fit; its statistics describe the last step."""
        return self._loop_adapter.engine

    @property  # type: ignore[explicit-override]  # mypy misses it on properties with a setter
    @override
    def trainer(self) -> Trainer:
        """The Trainer, after this module was passed to it."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        set_trainer(self, trainer)
        if isinstance(trainer, Trainer):  # the only moment before a fit that a subclass cannot block
            Searches.of(trainer)

    def apply_gradient_transform_(self) -> None:
        """Apply the transform now, to all gradients; for manual optimization, where only you know which step follows.

        Call it once after the last `manual_backward`, before the first `optimizer.step()` that uses the gradients.

        Raises:
            RuntimeError: If there was no `manual_backward` since the last call.
        """
        self._loop_adapter.apply_(self.trainer, self)

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._loop_adapter.fit_start(self.trainer, self)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        self._loop_adapter.batch_start(self.trainer)
        return super().on_train_batch_start(batch, batch_idx)

    @override
    def on_after_backward(self) -> None:
        """Apply the transform if an optimizer step follows this backward pass."""
        super().on_after_backward()
        self._loop_adapter.after_backward(self.trainer, self)

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Check that the transform was applied."""
        super().on_before_optimizer_step(optimizer)
        self._loop_adapter.before_optimizer_step(self.trainer, self, optimizer)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self._loop_adapter.save(checkpoint)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._loop_adapter.load(checkpoint, trainer_of(self))


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the Trainer of a module, or `None` if it has none."""
    try:
        trainer = module.trainer
    except RuntimeError:  # not attached to a Trainer
        return None
    return trainer if isinstance(trainer, Trainer) else None  # under Fabric it is another type
