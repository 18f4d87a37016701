"""The engine for any Trainer of transformers, as a base class."""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.loops._transformers_hooks import TransformersHooks
from lightning_sparsegrad.transforms.base import GradientTransform


class TransformersMixin:
    """Apply a transform at the end of the last `training_step` of a window, before the Trainer's own norm and clip.

    Put it before a Trainer of transformers or TRL among the base classes. It does what `TransformersCallback` does once
    it is attached, but earlier: a mask comes before the clip of `max_grad_norm`, the `grad_norm` in the logs is that of
    the transformed gradient, and `nonfinite="raise"` names the tensor that is not finite.

    Args:
        *args: The arguments of the Trainer.
        gradient_transform: The strategy.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do in a window whose gradients are not finite, see `GradientEngine`.
        **kwargs: The arguments of the Trainer.

    Raises:
        ConfigurationError: As `TransformersCallback`.

    Example:
        >>> from transformers import Trainer
        >>> class MaskedTrainer(TransformersMixin, Trainer):
        ...     pass
        >>> # trainer = MaskedTrainer(model, arguments, train_dataset=..., gradient_transform=GradDrop(rate=0.2))
    """

    def __init__(
        self,
        *args: Any,
        gradient_transform: GradientTransform,
        skip_dropped: bool = True,
        nonfinite: NonFinite = "propagate",
        **kwargs: Any,
    ) -> None:
        hooks = _EarlyHooks(gradient_transform, skip_dropped=skip_dropped, nonfinite=nonfinite)
        super().__init__(*args, **kwargs)
        self._gradient_hooks = hooks.join(self)  # type: ignore[arg-type]  # it is a Trainer, by its other base class

    @property
    def gradient_engine(self) -> GradientEngine:
        """The engine, from the start of training; its statistics describe the last step."""
        return self._gradient_hooks.gradient_engine

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; an exception closes the window that is open."""
        return self._gradient_hooks.train(super().train, *args, **kwargs)  # type: ignore[misc]  # as above

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run the forward and backward pass of a micro-batch, and apply the transform after the last of a window."""
        run = super().training_step  # type: ignore[misc]  # as above
        return self._gradient_hooks.training_step(run, model, inputs, num_items_in_batch)


class _EarlyHooks(TransformersHooks):
    """The hooks of a Trainer that applies the transform by itself."""

    _argument = "gradient_transform"
    _is_early = True

    @override
    def after_backward(self, loss: Tensor) -> None:
        """Apply the transform after the last micro-batch, to gradients that are still scaled."""
        trainer = self._attached()
        if trainer is not None and trainer.accelerator.sync_gradients:
            scaler = trainer.accelerator.scaler
            self.apply_(loss_scale=None if scaler is None else scaler.scale(torch.ones((), device=loss.device)))

    @override
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that the transform was applied."""
        if self.gradient_engine.current is not None:
            raise RuntimeError(
                f"`TransformersMixin.training_step` should run: an override has to call super().training_step(), and "
                f"the mixin has to come before the Trainer. Found that it did not, at step {state.global_step}."
            )
