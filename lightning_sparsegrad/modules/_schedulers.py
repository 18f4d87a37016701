"""Learning-rate schedulers of a task, created for the length of the run and stepped every step or epoch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import isclass, isroutine, signature
from itertools import count
from math import ceil
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.loops._lightning_adapter import count_steps
from lightning_sparsegrad.loops.learning_rates import TRAINING_STEPS
from lightning_sparsegrad.modules._numbers import check_scheduler
from lightning_sparsegrad.modules.linear_decay import LinearDecay

Interval = Literal["step", "epoch"]

_INTERVALS = ("step", "epoch")
# parameters for the length of the training, and their alternatives
_LENGTHS = {"total_steps": "steps_per_epoch", TRAINING_STEPS: "num_stable_steps"}
# schedulers that end after a number of steps, and the attribute that holds it
_TOTALS: tuple[tuple[type[LRScheduler], str], ...] = (
    (OneCycleLR, "total_steps"),
    (CosineAnnealingLR, "T_max"),
    (PolynomialLR, "total_iters"),
    (LinearDecay, "total_steps"),
)


@dataclass
class Scheduling:
    """The scheduler of a task, and when it is stepped.

    If `total_steps` or `num_training_steps` is left out, it is set to the number of times that the run steps the
    scheduler. If it is given, or `T_max` or the like, it must reach the end of the run.

    Args:
        make: A function from the optimizer to the scheduler.
        interval: Whether it is stepped after every optimizer step or after every epoch; `None` for epochs if it is a
            `ReduceLROnPlateau`, else for steps.
        frequency: The number of steps or epochs between its steps; `None` for 1, or for the interval of validations if
            it is a `ReduceLROnPlateau` that monitors one.
        monitor: The metric that a `ReduceLROnPlateau` watches, if it has no `monitor` of its own.

    Raises:
        ConfigurationError: If there is no scheduler to step, or an argument is out of range.
    """

    make: LRSchedulerCallable | None
    interval: Interval | None = None
    frequency: int | None = None
    monitor: str | None = None
    _count: int | None = field(default=None, init=False)  # its steps in this run

    def __post_init__(self) -> None:
        given = {"interval": self.interval, "frequency": self.frequency, "monitor": self.monitor}
        for name, value in given.items():
            if value is not None and self.make is None:
                raise ConfigurationError(
                    f"Parameter `lr_scheduler_{name}` should be left out without `lr_scheduler`. "
                    f"Found `lr_scheduler_{name} = {value}`."
                )
        if self.interval is not None:
            require_one_of("lr_scheduler_interval", self.interval, _INTERVALS)
        if self.frequency is not None and self.frequency < 1:
            raise ConfigurationError(
                f"Parameter `lr_scheduler_frequency` should be positive. "
                f"Found `lr_scheduler_frequency = {self.frequency}`."
            )

    def configure(self, optimizer: Optimizer, trainer: Trainer) -> LRSchedulerConfigType:
        """Make the scheduler, and return it in the form of `configure_optimizers`.

        Raises:
            ConfigurationError: If it refuses its arguments, ends before the run, or has no metric to monitor.
        """
        interval, frequency = self.interval or "step", self.frequency or 1
        target, given = _target(self.make), dict(getattr(self.make, "keywords", {}))
        self._count = None
        make: Any = self.make
        for name, instead in _LENGTHS.items():
            if name not in _parameters(target):
                continue
            if given.get(name) is None and given.get(instead) is None:
                make = partial(make, **{name: self._length(trainer, interval, frequency, target, name)})
            elif given.get(name) is not None:
                _require(_name(target), name, given[name], count_of(trainer, interval, frequency), interval)
        scheduler = made("lr_scheduler", make, optimizer)
        if not isinstance(scheduler, LRScheduler):
            raise ConfigurationError(
                f"Parameter `lr_scheduler` should make an LRScheduler of torch. Found `{type(scheduler).__name__}`."
            )
        check_scheduler(scheduler)
        if isinstance(scheduler, StepLR) and scheduler.step_size < 1:  # torch divides by it at the first step
            raise ConfigurationError(
                f"Parameter `step_size` of `StepLR` should be positive. Found `step_size = {scheduler.step_size}`."
            )
        if isinstance(scheduler, ReduceLROnPlateau):
            return self._on_plateau(scheduler, trainer)
        if self.monitor is not None:
            raise ConfigurationError(
                f"Parameter `lr_scheduler_monitor` should be left out unless `lr_scheduler` is a `ReduceLROnPlateau`. "
                f"Found `lr_scheduler_monitor = {self.monitor}` for `{type(scheduler).__name__}`."
            )
        if isinstance(scheduler, LinearDecay) and scheduler.total_steps is None:
            scheduler.follow(self._length(trainer, interval, frequency, LinearDecay, "total_steps"))
        if _total(scheduler):
            self._count = count_of(trainer, interval, frequency)
            self.check(scheduler)
        return {"scheduler": scheduler, "interval": interval, "frequency": frequency}

    def check(self, scheduler: Any) -> None:
        """Raise a `ConfigurationError` if a scheduler, possibly from a checkpoint, ends before the run."""
        for name, total in _total(scheduler).items():
            _require(type(scheduler).__name__, name, total, self._count, self.interval or "step")

    def check_monitor(self, trainer: Trainer) -> None:
        """Raise a `ConfigurationError` if a scheduler is stepped before the first validation logs its metric."""
        for config in trainer.lr_scheduler_configs:
            if config.interval != "step" or not str(config.monitor).startswith("val/"):
                continue
            batches, every = trainer.num_training_batches, trainer.accumulate_grad_batches
            stepping = (
                batch for batch in count(config.frequency, config.frequency) if batch % every == 0 or batch >= batches
            )
            first = float("inf") if trainer.val_check_batch is None else trainer.val_check_batch
            if (trainer.check_val_every_n_epoch or 1) > 1 or next(stepping) < first:
                raise ConfigurationError(
                    f"Parameter `lr_scheduler_interval` should be `epoch`, or `lr_scheduler_frequency` at least the "
                    f"number of batches before the first validation, to watch `{config.monitor}`. Found "
                    f"`lr_scheduler_interval = step`, `lr_scheduler_frequency = {config.frequency}`."
                )

    def _on_plateau(self, scheduler: ReduceLROnPlateau, trainer: Trainer) -> LRSchedulerConfigType:
        own = getattr(scheduler, "monitor", None)  # Lightning's class has one
        monitor = self.monitor or own
        if monitor is None or (own is not None and monitor != own):
            raise ConfigurationError(
                "Parameter `lr_scheduler_monitor` should name the metric of `ReduceLROnPlateau`, such as `val/loss`"
                + (f", or be its `monitor = {own}`" if own else "")
                + f". Found `lr_scheduler_monitor = {self.monitor}`."
            )
        interval = self.interval or "epoch"
        validated = trainer.check_val_every_n_epoch or 1 if interval == "epoch" and monitor.startswith("val/") else 1
        frequency = self.frequency or validated
        if frequency % validated:
            raise ConfigurationError(
                f"Parameter `lr_scheduler_frequency` should be a multiple of `check_val_every_n_epoch = {validated}` "
                f"of the Trainer if `ReduceLROnPlateau` watches `{monitor}`. "
                f"Found `lr_scheduler_frequency = {frequency}`."
            )
        return {"scheduler": scheduler, "interval": interval, "frequency": frequency, "monitor": monitor}

    def _length(self, trainer: Trainer, interval: Interval, frequency: int, target: Any, name: str) -> int:
        count = count_of(trainer, interval, frequency)
        if count is None:
            raise ConfigurationError(
                f"Parameter `max_steps` of the Trainer should be given for `{_name(target)}` without `{name}` if the "
                f"number of steps per epoch is not known. Found `max_steps = {trainer.max_steps}`."
            )
        return count


def made(parameter: str, make: Callable[[Any], Any], of: Any) -> Any:
    """Call a function that the user gave; raise a `ConfigurationError` if it refuses its arguments."""
    try:
        return make(of)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"Parameter `{parameter}` should have arguments that it accepts. Found: {error}"
        ) from error


def count_of(trainer: Trainer, interval: Interval, frequency: int) -> int | None:
    """Return how often a run steps a scheduler; `None` if the length of the run or of its data is not known."""
    steps, batches = count_steps(trainer), trainer.num_training_batches
    if steps is None or (interval == "step" and frequency == 1):
        return steps
    if batches == float("inf"):
        return None
    every = trainer.accumulate_grad_batches
    stepping = [batch for batch in range(1, int(batches) + 1) if batch % every == 0 or batch == batches]
    epochs = ceil(steps / len(stepping)) if trainer.max_steps != -1 else trainer.max_epochs or 0
    return epochs // frequency if interval == "epoch" else epochs * sum(batch % frequency == 0 for batch in stepping)


def _require(owner: str, name: str, total: int, count: int | None, interval: Interval) -> None:
    if count is not None and total < count:
        hint = "" if interval == "epoch" else " With `lr_scheduler_interval = epoch` it counts epochs."
        raise ConfigurationError(
            f"Parameter `{name}` of `{owner}` should be at least {count}, the number of times that this run steps it, "
            f"once every {interval}. Found `{name} = {total}`.{hint}"
        )


def _total(scheduler: Any) -> Mapping[str, int]:
    """Return the parameter that holds the number of steps after which a scheduler ends, with its value."""
    if isinstance(scheduler, LinearLR) and scheduler.end_factor == 0:
        return {"total_iters": scheduler.total_iters}
    return {name: getattr(scheduler, name) for kind, name in _TOTALS if isinstance(scheduler, kind)}


def _target(make: Any) -> Any:
    """Return the class or function that is called, also behind a partial application."""
    if not isinstance(make, partial):
        return make
    last = make.args[-1] if make.args else None  # jsonargparse's form
    return last if isclass(last) or isroutine(last) else make.func


def _parameters(target: Any) -> Mapping[str, Any]:
    try:
        return signature(target).parameters
    except (TypeError, ValueError):
        return {}


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))
