"""The engine for a LightningModule that does not subclass `SparseGradModule`."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.loops._lightning_adapter import AdapterOwner, LightningAdapter
from lightning_sparsegrad.loops._refusals import require_super
from lightning_sparsegrad.modules.base import SparseGradModule
from lightning_sparsegrad.resume._gate import CheckpointGate
from lightning_sparsegrad.resume._searches import Searches
from lightning_sparsegrad.transforms.base import GradientTransform


class GradientTransformCallback(AdapterOwner, Callback):
    """Apply a transform to the gradients of any LightningModule, once per optimizer step.

    It does for your own module what `SparseGradModule` does for its subclasses. Under manual optimization, call
    `apply_gradient_transform_(trainer, module)` after the last `manual_backward`, before the first `optimizer.step()`
    that uses it.

    Args:
        gradient_transform: The strategy.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do in a window whose gradients are not finite: `"propagate"`, `"skip"` or `"raise"`, see
            `GradientEngine`.

    Raises:
        ConfigurationError: If `gradient_transform` is not a transform; when a subclass overrides a hook without
            super(); at the start of a fit, if the module is a `SparseGradModule` itself, another such callback is
            present, or the transform cannot work on the model.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_sparsegrad import ComponentNormClip
        >>> callback = GradientTransformCallback(ComponentNormClip(max_norm=0.05))
        >>> trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self, gradient_transform: GradientTransform, *, skip_dropped: bool = True, nonfinite: NonFinite = "propagate"
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
        require_super(cls, GradientTransformCallback)

    @property
    def gradient_transform(self) -> GradientTransform:
        """The strategy, as given."""
        return self._loop_adapter.transform

    @property
    def gradient_engine(self) -> GradientEngine:
        """The engine, from the start of a fit; its statistics describe the last step."""
        return self._loop_adapter.engine

    def apply_gradient_transform_(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the transform to all gradients now: for manual optimization, where only you know which step follows.

        Call it once after the last `manual_backward`, before the first `optimizer.step()` that uses the gradients.

        Raises:
            RuntimeError: If there was no `manual_backward` since the last call.
        """
        self._loop_adapter.apply_(trainer, pl_module)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        Searches.of(trainer)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        present = callbacks_of(trainer)
        doors = [type(callback).__name__ for callback in present if isinstance(callback, GradientTransformCallback)]
        if isinstance(pl_module, SparseGradModule):
            doors.append(type(pl_module).__name__)
        if len(doors) > 1:
            raise ConfigurationError(
                f"Gradients should be transformed in one place; use `Chain` for several transforms. "
                f"Found {', '.join(f'`{door}`' for door in doors)}."
            )
        self._loop_adapter.fit_start(trainer, pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._loop_adapter.batch_start(trainer)

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the transform if an optimizer step follows this backward pass."""
        self._loop_adapter.after_backward(trainer, pl_module)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Check that the transform was applied."""
        self._loop_adapter.before_optimizer_step(trainer, pl_module, optimizer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loop_adapter.save(checkpoint)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loop_adapter.load(checkpoint, trainer)
