"""Private names of Lightning that hold the state of a fit.

There are no public equivalents. Each name is checked against the installed version in `tests/private_names.py`; if one
is missing, the function that needs it raises an error that names the version. Nothing private is imported before it is
needed. Lightning's checkpoints hold only the state for a resume between two epochs. A resume within an epoch is
requested in Lightning#18780 and Lightning#19764 (both open), and would make this module unnecessary.
"""

from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.connectors import checkpoint_connector
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_sparsegrad.errors import needs_private_names

# without these, the first micro-batch after a resume would write the same checkpoint again
_OF_CHECKPOINTS = ("_last_global_step_saved", "_last_checkpoint_saved", "_defer_save_until_validation")
WRAPPED_SAMPLER = "_sampler"
"""The attribute in which Lightning keeps a sampler that it wraps for several processes: it decides the data order."""

CLASS_PATH = "_class_path"
"""The key of the class among the arguments that a LightningCLI stores in a checkpoint."""

_SEEN = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")
_STEPS = "_batches_that_stepped"
_RESTORING = ("restore", "resume", "select_ckpt", "parse_ckpt")

_resume = needs_private_names("lightning", "a resume")


def replace_private(owner: Any, name: str, value: Any) -> None:
    """Set a private attribute that has to exist: a name that nobody reads would have no effect."""
    getattr(owner, name)
    setattr(owner, name, value)


# ------------------------------------------------------------ counters and flags of the loops
@_resume
def reload_epochs(trainer: Trainer) -> list[int | float]:
    """Return the epochs in which the loaders of training and validation were created.

    Without them `reload_dataloaders_every_n_epochs` restarts its count after a resume.
    """
    loop = trainer.fit_loop
    return [loop._last_train_dl_reload_epoch, loop.epoch_loop.val_loop._last_val_dl_reload_epoch]


@_resume
def set_reload_epochs(trainer: Trainer, epochs: list[int | float]) -> None:
    """Restore what `reload_epochs` returned."""
    replace_private(trainer.fit_loop, "_last_train_dl_reload_epoch", epochs[0])
    replace_private(trainer.fit_loop.epoch_loop.val_loop, "_last_val_dl_reload_epoch", epochs[1])


@_resume
def batches_of_validations(trainer: Trainer) -> dict[int, int]:
    """Return the number of validation batches so far by loader: the steps at which they are logged."""
    return trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader


@_resume
def checkpoint_counters(callback: ModelCheckpoint) -> dict[str, Any]:
    """Return what a ModelCheckpoint remembers about its last file."""
    return {name: getattr(callback, name) for name in _OF_CHECKPOINTS}


@_resume
def set_checkpoint_counters(callback: ModelCheckpoint, counted: dict[str, Any]) -> None:
    """Restore what `checkpoint_counters` returned."""
    for name in _OF_CHECKPOINTS:
        replace_private(callback, name, counted[name])


def logged_steps(trainer: Trainer) -> int:
    """Return the step that loggers get with a batch's metrics; -1 if Lightning has removed it.

    It differs from the public `global_step` with several optimizers. Without it a run resumed from an inexact
    checkpoint continues to log at another step.
    """
    return int(getattr(trainer.fit_loop.epoch_loop, _STEPS, -1))


@_resume
def shift_logged_steps(progress: dict[str, Any], by: int = 0, *, to: int | None = None) -> None:
    """Change, in the saved progress of a fit, the step that loggers get with a batch's metrics."""
    saved = progress["epoch_loop.state_dict"]
    if _STEPS not in saved:
        raise AttributeError(f"the saved progress has no {_STEPS}", name=_STEPS)
    saved[_STEPS] = (saved[_STEPS] if to is None else to) + by


@_resume
def end_restart(trainer: Trainer) -> None:
    """Make a resumed fit begin an epoch like any other: the fit loop's own flag stays `True` with `max_steps`."""
    from lightning.pytorch.loops.loop import _Loop

    trainer.fit_loop.reset_restart_stage()
    trainer.fit_loop.epoch_loop.reset_restart_stage()
    _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]  # mypy takes it for its value


@_resume
def clear_restarting(trainer: Trainer) -> None:
    """Make a resumed epoch end like any other; otherwise a plateau scheduler is skipped for lack of its metric."""
    replace_private(trainer.fit_loop, "_restarting", False)


@_resume
def begin_pass_itself(trainer: Trainer) -> None:
    """Make Lightning begin the pass over the training data after all hooks, as in a fit that is not resumed."""
    replace_private(trainer.fit_loop, "_resuming_from_checkpoint", False)


# ------------------------------------------------------------ the data
@_resume
def training_loaders(trainer: Trainer) -> list[Any]:
    """Return the training loaders, which decide the order of the data; an empty list before they are set up."""
    return _flattened(trainer.fit_loop._combined_loader)


@_resume
def validation_loaders(trainer: Trainer) -> list[Any]:
    """Return the validation loaders; an empty list before they are set up."""
    return _flattened(trainer.fit_loop.epoch_loop.val_loop._combined_loader)


def _flattened(combined: CombinedLoader | None) -> list[Any]:
    return [] if combined is None else combined.flattened


@_resume
def set_training_loaders(trainer: Trainer, loaders: list[Any]) -> None:
    """Make training read other loaders from its next pass on."""
    loop: Any = trainer.fit_loop
    loop._combined_loader.flattened = loaders


@_resume
def loads_batches_itself(trainer: Trainer) -> bool:
    """Return whether `training_step` takes `dataloader_iter`, so that the number of used batches is unknown."""
    from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher

    return isinstance(trainer.fit_loop._data_fetcher, _DataLoaderIterDataFetcher)


@_resume
def fetcher_of(trainer: Trainer) -> Any:
    """Return the data fetcher of a fit; `None` after its end.

    Iterating over it begins a pass. Lightning takes batches from its `iterator`: no hook runs between the end of one
    batch and the loading of the next. `fetched` counts the loaded batches.
    """
    return trainer.fit_loop._data_fetcher


# ------------------------------------------------------------ what is logged
@_resume
def results(trainer: Trainer) -> dict[str, Any]:
    """Return the mapping itself in which `self.log` gathers the epoch; without it epoch means would restart."""
    return trainer.fit_loop.epoch_loop._results


@_resume
def sync_of(meta: Any) -> dict[str, Any]:
    """Return how an entry of the results is reduced over processes, as `new_result` takes it."""
    return {"_should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only}


@_resume
def new_result(
    meta: dict[str, Any], sync: dict[str, Any], reduce: Callable[..., Any], *, over: Callable[..., Any], is_tensor: bool
) -> Any:
    """Return an entry of the results without any values.

    Args:
        meta: Arguments of the call of `self.log`.
        sync: What `sync_of` returned.
        reduce: Reduction over the values of the epoch.
        over: Reduction over processes.
        is_tensor: Whether it gathers values; otherwise it reads a metric.
    """
    from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync

    made = _Metadata(**meta, reduce_fx=reduce)
    made.sync = _Sync(fn=over, **sync)
    return _ResultMetric(made, is_tensor=is_tensor)


@_resume
def seen_metrics(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Return the dictionaries behind `trainer.callback_metrics` and the like, which have no public setter."""
    return {name: getattr(trainer._logger_connector, name) for name in _SEEN}


@_resume
def set_first_batch(trainer: Trainer, *, within_epoch: bool) -> None:
    """Set whether the next logged batch belongs to an epoch that has already begun."""
    replace_private(trainer._logger_connector, "_first_loop_iter", False if within_epoch else None)


# ------------------------------------------------------------ searches of the tuner
@_resume
def loops_of(trainer: Trainer) -> list[Any]:
    """Return the loop of a fit and its inner loops, whose state a search changes."""
    from lightning.pytorch.loops.loop import _Loop

    loops: list[Any] = [trainer.fit_loop]
    for loop in loops:  # it grows
        loops.extend(inner for inner in vars(loop).values() if isinstance(inner, _Loop))
    return loops


@_resume
def connectors_of(trainer: Trainer, *, fits: bool) -> list[Any]:
    """Return the other objects that a search changes: the checkpoint to resume from and, in a fit, logged metrics."""
    return [trainer._checkpoint_connector, *([trainer, trainer._logger_connector] if fits else [])]


@_resume
def begin_search(trainer: Trainer) -> None:
    """Make a search load its own data and log separately."""
    trainer._logger_connector.reset_metrics()
    for loop in loops_of(trainer):
        if "_combined_loader" in vars(loop):
            loop._combined_loader = loop._data_fetcher = None
        if "_results" in vars(loop):
            loop._results = type(loop._results)(training=loop._results.training)


@_resume
def unload(trainer: Trainer) -> bool:
    """Make a fit set up its data again when they are needed; return whether the training data were set up."""
    loop = trainer.fit_loop
    is_loaded = loop._combined_loader is not None
    loop._combined_loader = loop.epoch_loop.val_loop._combined_loader = None
    return is_loaded


@_resume
def unset_sources(trainer: Trainer) -> list[Callable[[], Any]]:
    """Return the functions that create the training and validation loaders that are not set up yet."""
    loops = (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop)
    sources = [loop._data_source for loop in loops if loop._combined_loader is None]
    return [source.dataloader for source in sources if source.instance is not None and source.is_defined()]


# ------------------------------------------------------------ errors
def restores_checkpoint(frame: FrameType) -> bool:
    """Return whether a frame of a traceback is a function of Lightning that finds or restores a checkpoint.

    Its errors have no class of their own. No upstream issue.
    """
    is_connector = frame.f_globals.get("__name__") == checkpoint_connector.__name__
    return is_connector and any(name in frame.f_code.co_name for name in _RESTORING)
