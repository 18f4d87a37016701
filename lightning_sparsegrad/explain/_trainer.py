"""The Trainer of a fit, changed to rehearse it: one process that writes nothing and validates nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from math import ceil
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_sparsegrad.callbacks import GradientTransformCallback
from lightning_sparsegrad.untrusted._jsonargparse import find

_QUIET: Mapping[str, Any] = {
    "logger": False,
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
_KEPT = (GradientTransformCallback, GradientAccumulationScheduler)  # the callbacks that change gradients
_GPUS = {"auto", "gpu", "cuda"}


@dataclass(frozen=True)
class Devices:
    """The processes of a fit.

    Args:
        count: How many there are.
        why_whole: Why gradients that are dropped are computed all the same; `None` where that is the model's to say.
    """

    count: int
    why_whole: str | None


def settle_trainer(trainer: Namespace, *, total_steps: int | None, on_meta: bool) -> Devices:
    """Change the arguments of a Trainer, in place, to those of a rehearsal, and return the processes of the fit.

    Several processes become an accumulation in one: as many batches make a window, of the same mean.

    Args:
        trainer: The arguments.
        total_steps: Optimizer steps of the fit, if they are not to be counted by its data.
        on_meta: Whether the model is on the meta device.
    """
    devices = Devices(count := _processes(trainer), _why_whole(trainer, count))
    trainer.callbacks = [each for each in _listed(trainer.callbacks) if _is_kept(each)]
    for callback in trainer.callbacks:
        arguments = callback.get("init_args") or {}
        if "scheduling" in arguments:
            arguments["scheduling"] = {epoch: every * count for epoch, every in arguments["scheduling"].items()}
    trainer.accumulate_grad_batches *= count
    settings = {**_QUIET, **({"accelerator": "cpu"} if on_meta else {})}
    if total_steps is not None:
        epochs = trainer.max_epochs if (trainer.max_epochs or 0) > 0 else 1
        settings |= {"max_steps": total_steps, "max_epochs": epochs}
        settings |= {"limit_train_batches": None, "overfit_batches": 0.0, "fast_dev_run": False}
    for name, value in settings.items():
        trainer[name] = value
    return devices


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
    """Return in how many processes a fit runs; where that is left open, as it would on this machine."""
    devices = trainer.devices
    if isinstance(devices, str):  # "auto", "2", "0,1" or "3,"
        numbers = [number for number in devices.split(",") if number]
        devices = -1 if devices == "auto" else numbers if "," in devices else int(devices)
    count: int = len(devices) if isinstance(devices, list) else devices
    if count == -1:
        count = torch.cuda.device_count() if trainer.accelerator in _GPUS else 1
    return max(1, count) * int(trainer.num_nodes)


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


def _listed(callbacks: Any) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]


def _is_kept(callback: Any) -> bool:
    kind = find(callback.get("class_path"))
    return isinstance(kind, type) and issubclass(kind, _KEPT)
