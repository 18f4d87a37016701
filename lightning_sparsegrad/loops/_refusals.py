"""Refusals of, and warnings about, Trainers and modules that defeat an engine."""

from inspect import unwrap

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging, GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_warn

from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional.sharding import is_spread
from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.loops._optimizers import refuse_closures
from lightning_sparsegrad.loops._twins import is_a, package_of
from lightning_sparsegrad.transforms.base import GradientTransform, Window
from lightning_sparsegrad.transforms.masks.fixed_mask import FixedMask

# strategies that flatten gradients or keep them out of the parameters: norms and masks would be silently wrong
_HIDDEN = ("FSDPStrategy", "XLAFSDPStrategy", "DeepSpeedStrategy")
_HOOKS = {
    "setup",  # of the callback
    "on_fit_start",
    "on_train_batch_start",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_save_checkpoint",
    "on_load_checkpoint",
}


def refuse_unsupported(trainer: Trainer, transform: GradientTransform) -> None:
    """Raise a `ConfigurationError` for a Trainer whose clip, strategy or optimizer defeats a transform."""
    if trainer.gradient_clip_val and transform.bounds:
        raise ConfigurationError(
            f"Parameter `gradient_clip_val` of the Trainer should be omitted with `{transform!r}`: the second clip "
            f"would change what the first has bounded. Found `gradient_clip_val = {trainer.gradient_clip_val}`."
        )
    refuse_closures(trainer.optimizers)
    refuse_strategy(type(trainer.strategy))


def refuse_strategy(kind: type) -> None:
    """Raise a `ConfigurationError` for a class of strategies that hides gradients."""
    if {cls.__name__ for cls in kind.__mro__}.intersection(_HIDDEN):
        raise ConfigurationError(
            f"Parameter `strategy` of the Trainer should leave each parameter its gradient, whole as 'ddp' does or "
            f"sharded by rows as `ModelParallelStrategy` (FSDP2) does. Found `{kind.__name__}`."
        )


def warn_of_lost_states(module: LightningModule, engine: GradientEngine, transform: GradientTransform) -> None:
    """Warn about a sharded fit that may not resume from a checkpoint before all tensors have trained."""
    sharded = any(is_spread(parameter) for parameter in module.parameters())
    if sharded and engine.transform.skippable(Window(step=0, epoch=0, total_steps=1, seed=engine.seed)):
        rank_zero_warn(
            f"`{transform!r}` drops tensors whole, which have no optimizer state until they train; and torch "
            f"restores a sharded optimizer only if all have one. An earlier checkpoint may not be resumable."
        )


def warn_of_rounded_averages(trainer: Trainer, transform: GradientTransform) -> None:
    """Warn about averages of weights that do not keep the bits of what is frozen."""
    averages = any(is_a(callback, EMAWeightAveraging) for callback in callbacks_of(trainer))
    if averages and any(isinstance(member, FixedMask) for member in transform.flattened()):
        rank_zero_warn(
            f"`EMAWeightAveraging` rounds: what `{transform!r}` freezes may differ in the last bit in the averaged "
            f"weights. `WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))`, with the function of "
            f"`torch.optim.swa_utils`, keeps it."
        )


def refuse_twins(trainer: Trainer) -> None:
    """Refuse callbacks from the other package, if the Trainer has to recognise them by their class."""
    package = package_of(type(trainer))
    for callback in callbacks_of(trainer):
        known = is_a(callback, GradientAccumulationScheduler) or is_a(callback, Checkpoint)
        if known and package_of(type(callback)) != package:
            raise ConfigurationError(
                f"Callbacks should be of `{package}`, as the Trainer is. "
                f"Found `{type(callback).__name__}` of `{package_of(type(callback))}`, which the Trainer does not know."
            )


def require_super(cls: type, base: type) -> None:
    """Refuse a subclass that overrides a hook of `base` without naming it, as `super().on_after_backward()` does."""
    for owner in cls.__mro__[: cls.__mro__.index(base)]:
        for hook in vars(base).keys() & _HOOKS:
            override = owner.__dict__.get(hook)
            code = getattr(unwrap(override), "__code__", None) if override else None
            if code is not None and hook not in code.co_names:
                raise ConfigurationError(
                    f"`{owner.__name__}.{hook}` should call super().{hook}(): gradients are masked and clipped there. "
                    f"Found an override that does not."
                )
