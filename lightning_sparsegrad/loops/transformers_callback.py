"""The engine for any Trainer of transformers, as a callback."""

from typing import Any, Self

from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops._transformers import intercept_training
from lightning_sparsegrad.loops._transformers_checks import warn_of_early_clip
from lightning_sparsegrad.loops._transformers_hooks import TransformersHooks, has_scaler
from lightning_sparsegrad.transforms.base import GradientTransform


class TransformersCallback(TransformersHooks):
    """Apply a transform to the gradients of a `transformers.Trainer`, or one of TRL, once per optimizer step.

    It works in the list of callbacks; `attach` gives it what callbacks do not get. The transform sees unscaled
    gradients, averaged over the window, after the Trainer's own norm and clip: set `max_grad_norm=0` unless that clip
    is wanted. `TransformersMixin` applies it before them. Its statistics are in the Trainer's log history, its state in
    the Trainer's checkpoints. `gradient_engine` is its engine, from the start of training.

    Args:
        transform: The strategy.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do in a window whose gradients are not finite: `"propagate"` or `"skip"`, see
            `GradientEngine`. `"raise"` needs `TransformersMixin`: the Trainer measures the norm of the whole gradient
            first, and one infinite entry makes every gradient undefined.

    Raises:
        ConfigurationError: If an argument is outside its range; with `max_grad_norm` beside a clip, DeepSpeed, an
            optimizer that steps within the backward pass or needs a closure, or another gradient transform; at the
            start of training, if the transform cannot work on the model.

    Example:
        >>> from lightning_sparsegrad import GradDrop
        >>> callback = TransformersCallback(GradDrop(rate=0.2))
        >>> # trainer = Trainer(model, TrainingArguments(max_grad_norm=0), train_dataset=..., callbacks=[callback])
        >>> # callback.attach(trainer)
    """

    def __init__(
        self, transform: GradientTransform, *, skip_dropped: bool = True, nonfinite: NonFinite = "propagate"
    ) -> None:
        super().__init__(transform, skip_dropped=skip_dropped, nonfinite=nonfinite)
        if nonfinite == "raise":
            raise ConfigurationError(
                "Parameter `nonfinite` should be 'propagate' or 'skip': the Trainer measures the norm of all gradients "
                "first, which makes each undefined. Found `nonfinite = 'raise'`, which `TransformersMixin` takes."
            )

    def attach(self, trainer: Trainer) -> Self:
        """Give the callback what a Trainer keeps from callbacks; it is added to the Trainer if it is not there.

        That is the model as it is wrapped, so that work is skipped under DDP and compilation; its reporters, which get
        the statistics; its losses, which are checked to be averaged over the micro-batches of a window; and its
        exceptions, after which no tensor is left without `requires_grad`.

        Args:
            trainer: The Trainer, before `train()`.

        Returns:
            The callback.

        Raises:
            ConfigurationError: If it is no Trainer, has another gradient transform, or arguments that defeat this one.
        """
        if not isinstance(trainer, Trainer):
            raise ConfigurationError(
                f"Parameter `trainer` should be a `transformers.Trainer`. Found a `{type(trainer).__name__}`."
            )
        if self._attached() is trainer:
            return self
        self.join(trainer)
        intercept_training(trainer, self.train, self.training_step)
        return self

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if state.is_world_process_zero:
            warn_of_early_clip(args, self.transform)

    @override
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Apply the transform."""
        self.apply_(unscaled=has_scaler(kwargs["optimizer"]))
