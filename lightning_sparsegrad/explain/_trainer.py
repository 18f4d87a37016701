"""The Trainer of a fit, changed to rehearse it: one process that writes nothing and validates nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from math import ceil
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    Timer,
)
from lightning.pytorch.strategies import StrategyRegistry

from lightning_sparsegrad.callbacks import GradientTransformCallback
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops._refusals import refuse_strategy
from lightning_sparsegrad.untrusted._jsonargparse import find

_QUIET: Mapping[str, Any] = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "barebones": False,
    "profiler": None,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "val_check_interval": None,
    "min_epochs": None,
    "min_steps": None,
    "max_time": None,
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
}
KEPT = (GradientTransformCallback, BaseFinetuning)  # they change what trains
_SCHEDULER = GradientAccumulationScheduler
_ENDING = (EarlyStopping, Timer)
_WATCHING = (Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ModelSummary, ProgressBar)  # they change nothing
_GPUS = {"auto", "gpu", "cuda"}
HALF = (16, "16", "16-mixed")


@dataclass(frozen=True)
class Devices:
    """The processes of a fit.

    Args:
        count: How many there are.
        why_whole: Why gradients that are dropped are computed all the same; `None` where that is the model's to say.
        notes: What the rehearsal leaves out of the fit, a line each.
    """

    count: int
    why_whole: str | None
    notes: tuple[str, ...] = ()


def settle_trainer(trainer: Namespace, *, total_steps: int | None, on_meta: bool) -> Devices:
    """Change the arguments of a Trainer, in place, to those of a rehearsal, and return the processes of the fit.

    Several processes become an accumulation in one: as many batches make a window, of the same mean.

    Args:
        trainer: The arguments.
        total_steps: Optimizer steps of the fit, if they are not to be counted by its data.
        on_meta: Whether the model is on the meta device.

    Raises:
        ConfigurationError: If the fit would refuse its devices or its strategy.
    """
    count = _processes(trainer)
    _require_strategy(trainer.strategy)
    kept = KEPT if total_steps is not None else (*KEPT, _SCHEDULER)  # all epochs of a given number are equal
    kinds = keep_callbacks(trainer, kept)
    devices = Devices(count, _why_whole(trainer, count), tuple(_notes(trainer, kinds, kept)))
    for callback in trainer.callbacks:
        arguments = callback.get("init_args") or {}
        if "scheduling" in arguments:
            arguments["scheduling"] = {epoch: every * count for epoch, every in arguments["scheduling"].items()}
    schedules = _SCHEDULER in kept and any(_is_a(kind, (_SCHEDULER,)) for kind in kinds)
    if trainer.accumulate_grad_batches != 1 or not schedules:
        trainer.accumulate_grad_batches *= count
    for name in ("limit_train_batches", "overfit_batches", "fast_dev_run"):  # a number of batches is that of a process
        limit = trainer[name]
        if isinstance(limit, int) or (isinstance(limit, float) and limit > 1):  # 3.0 is three batches, 0.5 a share
            trainer[name] = int(limit) * count
    settings: dict[str, Any] = {"accelerator": "cpu"} if on_meta else {}
    if on_meta and trainer.precision in HALF:  # which a CPU does not know, and weights are float32 in both
        settings["precision"] = "bf16-mixed"
    if total_steps is not None:
        epochs = trainer.max_epochs if (trainer.max_epochs or 0) > 0 else 1
        settings |= {"max_steps": total_steps, "max_epochs": epochs}
        settings |= {"limit_train_batches": None, "overfit_batches": 0.0, "fast_dev_run": False}
    silence(trainer, **settings)
    return devices


def silence(trainer: Namespace, **settings: Any) -> None:
    """Change the arguments of a Trainer, in place, to one process that writes nothing and validates nothing.

    Args:
        trainer: The arguments.
        **settings: Further arguments to set.
    """
    for name, value in {**_QUIET, **settings}.items():
        trainer[name] = value


def keep_callbacks(trainer: Namespace, kept: tuple[type, ...]) -> list[Any]:
    """Leave a Trainer only its callbacks of some classes, and return the classes of all that it had."""
    callbacks = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
    callbacks = [each for each in callbacks if each is not None]
    kinds = [find(each.get("class_path")) for each in callbacks]
    trainer.callbacks = [each for each, kind in zip(callbacks, kinds, strict=True) if _is_a(kind, kept)]
    return kinds


def about_left_out(kinds: Iterable[Any], kept: tuple[type, ...]) -> Iterator[str]:
    """Yield a line about the callbacks of a user that are left out, if there are any."""
    others = [kind for kind in kinds if not _is_a(kind, (*kept, *_ENDING, *_WATCHING))]
    if names := [f"`{kind.__name__}`" for kind in others if not kind.__module__.startswith("lightning_sparsegrad.")]:
        yield f"left out, whatever it would change: {', '.join(names)}"


def stand_in(trainer: Namespace, total_steps: int | None) -> Iterable[Any]:
    """Return what stands for the data of a fit, in number, without end where the number of steps is not given.

    Args:
        trainer: The arguments of the Trainer.
        total_steps: Optimizer steps of the fit, if they are given.
    """
    if total_steps is None:
        return repeat(None)
    return range(ceil(total_steps / trainer.max_epochs) * trainer.accumulate_grad_batches)


def _processes(trainer: Namespace) -> int:
    """Return in how many processes a fit runs; where that is left open, as it would on this machine.

    Raises:
        ConfigurationError: If a fit would refuse its devices.
    """
    devices = trainer.devices
    if isinstance(devices, str):  # "auto", "2", "0,1" or "3,"
        numbers = [number.strip() for number in devices.split(",") if number.strip()]
        if devices == "auto":
            devices = -1
        elif numbers and all(number.removeprefix("-").isdecimal() for number in numbers):
            devices = numbers if "," in devices else int(devices)
    known = [*AcceleratorRegistry.available_accelerators(), "auto", "gpu"]
    if isinstance(trainer.accelerator, str) and trainer.accelerator not in known:
        raise ConfigurationError(
            f"Parameter `accelerator` of the Trainer should be one of {', '.join(known)}. "
            f"Found `accelerator = {trainer.accelerator}`."
        )
    if trainer.num_nodes < 1:
        raise ConfigurationError(
            f"Parameter `num_nodes` of the Trainer should be positive. Found `num_nodes = {trainer.num_nodes}`."
        )
    count = len(devices) if isinstance(devices, list) else devices
    if not isinstance(count, int) or count == 0 or count < -1:
        raise ConfigurationError(
            f"Parameter `devices` of the Trainer should be a positive number, a list of indices or 'auto'. "
            f"Found `devices = {trainer.devices}`."
        )
    if count == -1:
        count = torch.cuda.device_count() if trainer.accelerator in _GPUS else 1
    return max(1, count) * int(trainer.num_nodes)


def _require_strategy(strategy: Any) -> None:
    """Refuse a strategy that does not exist, or with which a fit of this library is refused."""
    if strategy == "auto":
        return
    if isinstance(strategy, Namespace):
        kind = find(strategy.class_path)
    elif strategy in StrategyRegistry.available_strategies():
        kind = StrategyRegistry[strategy]["strategy"]
    else:
        raise ConfigurationError(
            f"Parameter `strategy` of the Trainer should be 'auto', a class, or one of "
            f"{', '.join(StrategyRegistry.available_strategies())}. Found `strategy = {strategy}`."
        )
    refuse_strategy(kind)


def _notes(trainer: Namespace, kinds: list[Any], kept: tuple[type, ...]) -> Iterator[str]:
    """Yield what a rehearsal leaves out of a fit, a line each."""
    ending = [f"`{kind.__name__}`" for kind in kinds if _is_a(kind, _ENDING)]
    ending += ["`max_time`"] if trainer.max_time is not None else []
    if ending:
        yield f"these are the most steps: {' and '.join(ending)} may end the training before"
    yield from about_left_out(kinds, kept)
    for kind in kinds:
        if _is_a(kind, (BaseFinetuning,)):
            yield f"what `{kind.__name__}` freezes at the start counts; what it unfreezes later is not followed"


def _why_whole(trainer: Namespace, count: int) -> str | None:
    """Return why the strategy of a Trainer has gradients that are dropped computed all the same."""
    strategy = trainer.strategy
    name, arguments = str(strategy), {}
    if isinstance(strategy, Namespace):
        name = str(strategy.class_path)
        arguments = {**(strategy.get("init_args") or {}), **(strategy.get("dict_kwargs") or {})}
    if name.endswith("ModelParallelStrategy"):
        return "FSDP2 reduces the gradients of a module together"
    finds_unused = name.endswith("find_unused_parameters_true") or arguments.get("find_unused_parameters") is True
    if finds_unused or (count == 1 and "ddp" not in name.lower()):
        return None
    return "DDP skips with `find_unused_parameters=True` only"


def _is_a(kind: Any, classes: tuple[type, ...]) -> bool:
    return isinstance(kind, type) and issubclass(kind, classes)
