"""The state that a search of Lightning's tuner changes and Lightning does not restore."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.resume._lightning import (
    begin_search,
    connectors_of,
    loops_of,
    training_loaders,
    unload,
    unset_sources,
    validation_loaders,
)
from lightning_sparsegrad.resume._loader_states import set_source_states, source_states
from lightning_sparsegrad.resume._logged import module_metrics, set_module_metrics
from lightning_sparsegrad.resume._randomness import random_states, set_random_states
from lightning_sparsegrad.resume._torch import lasting_workers, set_lasting_workers
from lightning_sparsegrad.resume._waiting import WaitingCheckpoints

_CONTAINERS = (dict, defaultdict, list, set)  # changed in place


@contextmanager
def same_draws(trainer: Trainer) -> Iterator[None]:
    """Restore the global random states, and the generators, samplers and lasting workers of a fit's loaders."""
    device = trainer.strategy.root_device
    random = random_states(device)
    loaders = _loaders(trainer) if trainer.state.fn == TrainerFn.FITTING else []
    sources = [(loader, source_states(loader), lasting_workers(loader)) for loader in loaders]
    for loader, _, iterator in sources:
        if iterator is not None:  # with workers that outlive an epoch
            set_lasting_workers(loader, None)
    set_random_states(random, device)
    try:
        yield
    finally:
        for loader, states, iterator in sources:
            set_source_states(loader, states)
            if lasting_workers(loader) is not iterator:
                set_lasting_workers(loader, iterator)
        set_random_states(random, device)


@contextmanager
def untouched(trainer: Trainer, *, same_batches: bool) -> Iterator[None]:
    """Restore the state of a Trainer: its settings, loops, loaders, metrics, and the checkpoint that it resumes from.

    Args:
        trainer: The Trainer, while it fits or evaluates; in an evaluation, Lightning restores all but the checkpoint.
        same_batches: Whether the loaded data may be used afterwards; otherwise they are loaded again.
    """
    callbacks = callbacks_of(trainer)
    waiting = [callback for callback in callbacks if isinstance(callback, WaitingCheckpoints)]
    fits, module, loop = trainer.state.fn == TrainerFn.FITTING, trainer.lightning_module, trainer.fit_loop
    objects = [*connectors_of(trainer, fits=fits), *waiting, *(loops_of(trainer) if fits else [])]
    members = [(owner, _members(owner)) for owner in objects]
    progress, metrics = deepcopy(loop.state_dict()), module_metrics(module)
    stored = module.state_dict().keys()
    buffers = [(buffer, buffer.clone()) for name, buffer in module.named_buffers() if name not in stored]
    for callback in waiting:
        callback.suspended = True
    if fits:
        begin_search(trainer)
    try:
        yield
    finally:
        if fits:
            loop.load_state_dict(progress)
        for owner, values in members:
            vars(owner).update(values)
        for buffer, value in buffers:
            buffer.copy_(value)
        set_module_metrics(module, metrics)
        if fits and not same_batches and unload(trainer):
            loop.setup_data()


def _loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders of a fit, creating those that are not set up yet."""
    loaders = [*training_loaders(trainer), *validation_loaders(trainer)]
    for make in unset_sources(trainer):
        given = make()
        loaders += (given if isinstance(given, CombinedLoader) else CombinedLoader(given)).flattened
    return loaders


def _members(owner: Any) -> dict[str, Any]:
    return {name: copy(value) if type(value) in _CONTAINERS else value for name, value in vars(owner).items()}
