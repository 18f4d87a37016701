"""The base of all modules: owns a gradient engine and runs it in `on_after_backward`."""

from inspect import unwrap
from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from lightning_sparsegrad.driver import TrainerDriver
from lightning_sparsegrad.engine import GradientEngine
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms.base import GradientTransform


class SparseGradModule(LightningModule):
    """A LightningModule whose gradients go through a transform, once per optimizer step.

    Subclass it like any LightningModule. The transform sees the whole gradient: after all micro-batches of an
    accumulation window, and after ranks have averaged theirs. Under manual optimization call
    `apply_gradient_transform_()` after the last `manual_backward` before each `optimizer.step()`.

    A subclass may override the hooks below if it calls super(); it is refused when the class is defined otherwise.

    Args:
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.

    Raises:
        ConfigurationError: If `gradient_transform` is no transform; when a subclass overrides a hook without super();
            at the start of a fit, if the transform cannot work on this model or with this Trainer.

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

    def __init__(self, *, gradient_transform: GradientTransform) -> None:
        super().__init__()
        self._driver = TrainerDriver(gradient_transform, door="self")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for hook in _HOOKS:
            _require_super(cls, hook)

    @property
    def gradient_transform(self) -> GradientTransform:
        """The strategy, as given."""
        return self._driver.transform

    @property
    def gradient_engine(self) -> GradientEngine:
        """The engine, from the start of a fit on: its statistics tell what the last step did."""
        return self._driver.engine

    def apply_gradient_transform_(self) -> None:
        """Apply the transform now; for manual optimization, where only you know which step follows."""
        self._driver.apply_(self.trainer, self)

    def on_fit_start(self) -> None:
        self._driver.fit_start(self.trainer, self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:  # noqa: ARG002
        self._driver.batch_start(self.trainer)
        return None

    def on_after_backward(self) -> None:
        """Apply the transform if an optimizer step follows this backward pass."""
        self._driver.after_backward(self.trainer, self)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Make sure that the transform was applied."""
        self._driver.before_optimizer_step(self.trainer, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._driver.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._driver.load(checkpoint)


_HOOKS = (
    "on_fit_start",
    "on_train_batch_start",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_save_checkpoint",
    "on_load_checkpoint",
)


def _require_super(cls: type[SparseGradModule], hook: str) -> None:
    """Refuse an override that does not name the hook it overrides, as `super().hook()` does."""
    for owner in cls.__mro__[: cls.__mro__.index(SparseGradModule)]:
        override = owner.__dict__.get(hook)
        code = getattr(unwrap(override), "__code__", None) if override else None
        if code is not None and hook not in code.co_names:
            raise ConfigurationError(
                f"`{owner.__name__}.{hook}` should call super().{hook}(): gradients are masked and clipped there. "
                f"Found an override that does not."
            )
