"""The hooks of a Trainer of transformers that drive an engine."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any, Self
from weakref import ref

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import logging
from typing_extensions import override

from lightning_sparsegrad.engine._nonfinite import NonFinite, check_policy
from lightning_sparsegrad.engine._refusals import require_transform
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops._json_state import from_json, to_json
from lightning_sparsegrad.loops._optimizers import refuse_closures
from lightning_sparsegrad.loops._statistics import logged_statistics
from lightning_sparsegrad.loops._strategy_state import KEY, packed, restore
from lightning_sparsegrad.loops._token_rows import with_token_rows
from lightning_sparsegrad.loops._transformers_checks import (
    AveragingCheck,
    refuse_arguments,
    refuse_meshes,
    warn_of_unchecked_averaging,
)
from lightning_sparsegrad.loops._untrained import warn_of_untrained
from lightning_sparsegrad.loops._warmups import report_long_warmups
from lightning_sparsegrad.transforms.base import GradientTransform

_SEVERAL = "A Trainer should have one gradient transform; use `Chain` for several. Found a second one."
logger = logging.get_logger(__name__)


class TransformersHooks(TrainerCallback):
    """A callback that opens a window at the first micro-batch of a step, and keeps state and statistics.

    Args:
        transform: The strategy.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do with gradients that are not finite, see `GradientEngine`.

    Attributes:
        transform: The strategy, as given.
    """

    _argument = "transform"  # the name under which it is given
    _is_early = False  # whether the transform comes before the Trainer's norm and clip

    def __init__(
        self, transform: GradientTransform, *, skip_dropped: bool = True, nonfinite: NonFinite = "propagate"
    ) -> None:
        require_transform(f"`{self._argument}`", transform)
        check_policy(nonfinite)
        self.transform = transform
        self._skip_dropped, self._nonfinite = skip_dropped, nonfinite
        self._engine: GradientEngine | None = None
        self._attached: Callable[[], Trainer | None] = lambda: None
        self._averaging: AveragingCheck | None = None
        self._epoch = self._next_epoch = 0
        self._leaks = False  # whether a window of an epoch's end has joined the next one

    @property
    def gradient_engine(self) -> GradientEngine:
        """The engine, from the start of training; its statistics describe the last step."""
        if self._engine is None:
            raise RuntimeError("The gradient engine should exist from the start of `trainer.train()`. Found none.")
        return self._engine

    def join(self, trainer: Trainer) -> Self:
        """Know a Trainer, as its first callback, so that its reporters come later.

        Raises:
            ConfigurationError: If it has another such callback, or arguments that defeat the transform.
        """
        callbacks: list[TrainerCallback] = trainer.callback_handler.callbacks
        others = [each for each in callbacks if each is not self]
        if any(isinstance(each, TransformersHooks) for each in others):
            raise ConfigurationError(_SEVERAL)
        refuse_arguments(trainer.args, self.transform, is_early=self._is_early)
        callbacks[:] = [self, *others]
        self._attached = ref(trainer)
        return self

    def close(self) -> None:
        """Close the window that is open, if any."""
        if self._engine is not None:
            self._engine.abandon()

    @contextmanager
    def closed_by_errors(self) -> Iterator[None]:
        """Close the window that is open if an exception leaves the block: no callback learns of it."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def train(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the `train` of a Trainer."""
        with self.closed_by_errors():
            return run(*args, **kwargs)

    def training_step(
        self, run: Callable[..., Tensor], model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Run the `training_step` of a Trainer, a forward and backward pass of a micro-batch."""
        with self.closed_by_errors():  # here as well: the search for a batch size catches them within `train`
            if self._averaging is not None:
                self._averaging.check(inputs, num_items_in_batch)
            loss = run(model, inputs, num_items_in_batch)
            self.after_backward(loss)
        return loss

    def after_backward(self, loss: Tensor) -> None:
        """Act after the backward pass of a micro-batch."""

    def apply_(self, *, loss_scale: Tensor | None = None, unscaled: bool = False) -> None:
        """Apply the transform to the gradients of the window, and close it."""
        engine = self.gradient_engine
        engine.apply_(loss_scale=loss_scale, unscaled=unscaled)
        engine.abandon()

    # ------------------------------------------------------------ hooks, in the order they are called
    @override
    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        refuse_arguments(args, self.transform, is_early=self._is_early)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bind the transform to the model; raise a `ConfigurationError` if they cannot work together."""
        self.close()
        refuse_arguments(args, self.transform, is_early=self._is_early)
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        refuse_closures([optimizer])
        refuse_meshes(model.parameters(), scales=has_scaler(optimizer))

        def warn(message: str) -> None:
            if state.is_world_process_zero:
                warnings.warn(message, stacklevel=2)

        self._engine = None  # the hooks of the last training's are gone before there are new ones
        self._engine = self._new_engine(model, kwargs.get("processing_class"), args, state)
        self._engine.attach(optimizer)
        self._restore(state, warn)
        steps = state.max_steps
        epoch_steps = _epoch_steps(kwargs["train_dataloader"], args)
        warn_of_untrained(self._engine, count=lambda: steps, epoch_steps=lambda: epoch_steps or 1, warn=warn)
        report_long_warmups(self._engine, count=lambda: steps, report=warn)
        # as the Trainer counts: `state.epoch` is another number where the batches of the resumed run are others
        self._next_epoch = state.global_step // (epoch_steps or steps)
        trainer = self._attached()
        if trainer is None:
            warn_of_unchecked_averaging(args, model, warn)
        else:
            self._averaging = AveragingCheck(trainer, self.transform, warn)

    @override
    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the window of an optimizer step."""
        self.gradient_engine.open(state.global_step, epoch=self._epoch)

    @override
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        ends_within = self._engine is not None and self._engine.current is not None
        self.close()
        if ends_within and not control.should_training_stop and not self._leaks and state.is_world_process_zero:
            self._leaks = True
            warnings.warn(
                f"{'A callback' if control.should_epoch_stop else 'The data'} ended the epoch within the window of "
                f"step {state.global_step}: the Trainer adds these gradients to those of the next epoch. "
                + (
                    "`control.should_epoch_stop` that is set by `on_step_end` ends it with a step."
                    if control.should_epoch_stop
                    else f"A number of batches that `gradient_accumulation_steps = {args.gradient_accumulation_steps}` "
                    f"divides ends it with a step."
                ),
                stacklevel=2,
            )

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    @override
    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the statistics of the last step to what the Trainer logs of training."""
        logs = kwargs["logs"]
        if "loss" not in logs or self._engine is None or not self._engine.step:
            return
        statistics = {name: value.item() for name, value in logged_statistics(self._engine).items()}
        logs.update(statistics)  # for the callbacks that come later
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(statistics)

    # ------------------------------------------------------------ the start of training
    def _new_engine(
        self, model: nn.Module, processor: Any, args: TrainingArguments, state: TrainerState
    ) -> GradientEngine:
        trainer = self._attached()
        transform = with_token_rows(
            self.transform,
            lambda: getattr(processor, "tokenizer", processor),
            missing="the Trainer has a tokenizer as its `processing_class`. Found none",
            report=logger.info,
        )
        engine = GradientEngine(
            model,
            transform,
            wrapped_model=None if trainer is None else trainer.model_wrapped,
            total_steps=state.max_steps,
            seed=args.seed,
            skip_dropped=self._skip_dropped,
            nonfinite=self._nonfinite,
        )
        if trainer is None and (args.torch_compile or args.n_gpu > 1 or args.world_size > 1):
            engine.compute_everything("`TransformersCallback.attach(trainer)` gives the engine the wrapped model")
        return engine

    def _restore(self, state: TrainerState, warn: Callable[[str], None]) -> None:
        """Restore the state of a resumed training, and have the Trainer save it from now on."""
        states: dict[str, Any] = state.stateful_callbacks  # type: ignore[assignment]  # of the callbacks it was given
        saved = states.get(KEY)
        if isinstance(saved, _Saved):  # of this very training
            raise ConfigurationError(_SEVERAL)
        if saved is not None:
            restore(self.gradient_engine, self.transform, from_json(saved), warn=warn)
        elif state.global_step:
            warn(f"The checkpoint has no state of a gradient transform: `{self.transform!r}` starts at its step.")
        states[KEY] = _Saved(self.gradient_engine, self.transform)


class _Saved:
    """The state of an engine in that of a Trainer: a copy of it, which the Trainer saves, is plain.

    So the state is that of the moment in which the Trainer saves, whatever the order of callbacks.
    """

    def __init__(self, engine: GradientEngine, transform: GradientTransform) -> None:
        self._engine, self._transform = engine, transform

    @override
    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (to_json(packed(self._engine, self._transform)),)


def _epoch_steps(loader: Any, args: TrainingArguments) -> int | None:
    """Return the optimizer steps of an epoch, `None` if its length is not known."""
    return max(1, ceil(len(loader) / args.gradient_accumulation_steps)) if has_length(loader) else None


def has_scaler(optimizer: Optimizer) -> bool:
    """Return whether the loss is scaled for an optimizer of Accelerate, and its gradients unscaled before it steps."""
    return getattr(optimizer, "scaler", None) is not None
