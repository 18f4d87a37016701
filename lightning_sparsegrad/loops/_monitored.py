"""A check before the first step of a fit that the monitored metrics of callbacks and schedulers will be logged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import unwrap
from itertools import takewhile
from traceback import walk_tb
from types import CodeType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError, near_matches
from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.loops._twins import is_a

_LIBRARIES = ("lightning.", "pytorch_lightning.", "lightning_sparsegrad.")
_OF_LOGGERS = {"logger", "loggers", "logging", "getlogger", "logged_metrics", "log_metrics", "log_hyperparams"}
_METRICS = {"callback_metrics", "logged_metrics", "progress_bar_metrics"}
_LISTED = 8


class MonitorCheck(Callback):
    """Check before the first step that the monitored metrics of callbacks and schedulers will be logged.

    A callback with a `monitor`, such as `EarlyStopping` or `ModelCheckpoint`, and a `ReduceLROnPlateau` look up a name
    among the logged metrics, after an epoch. The names that a task of this library logs are known when the fit starts:
    any other name is refused. For other modules only the metrics of the sanity check are known: a name that is missing
    there gets a warning if it names a validation metric or resembles a logged one. So does a `mode` that takes the
    worst value for the best (`"min"` for an accuracy).

    Raises:
        ConfigurationError: At the start of training, if a name will not be logged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged: set[str] | None = None  # by the sanity check

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._logged = None

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged = set(trainer.callback_metrics)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = _names_logged(trainer, pl_module)
        validates = bool(trainer.val_dataloaders) or (trainer.val_dataloaders is None and trainer.enable_validation)
        for monitor in _monitors(trainer, pl_module):
            if monitor.name not in names and not _is_open(monitor, trainer):
                if monitor.reads_metrics and self._is_certain(trainer, pl_module, monitor.name):
                    _refuse(monitor, names, trainer, validates=validates)
                else:
                    _warn_of_doubtful(monitor, {*names, *(self._logged or ())}, self._logged, validates=validates)
            higher = names.get(monitor.name)
            if higher is not None and monitor.mode not in (None, "max" if higher else "min"):
                rank_zero_warn(
                    f"`{monitor.owner}(monitor={monitor.name!r}, mode={monitor.mode!r})` takes the worst value for the "
                    f"best: of `{monitor.name}`, {'higher' if higher else 'lower'} is better, "
                    f"`mode={'max' if higher else 'min'!r}`."
                )

    def _is_certain(self, trainer: Trainer, module: LightningModule, name: str) -> bool:
        """Return whether all names that will be logged are known."""
        if trainer.val_dataloaders is None and trainer.enable_validation and name.startswith("val/"):
            return False  # its parts are known only from the first validation on
        callbacks = callbacks_of(trainer)
        words = {word for source in (module, *callbacks) for word in _words_of(type(source))}
        may_log = any("log" in word.lower() and word.lower() not in _OF_LOGGERS for word in words)
        any_function = any(is_a(callback, LambdaCallback) for callback in callbacks)
        return hasattr(module, "names_logged") and not (may_log or any_function or name in words)


@dataclass(frozen=True)
class _Monitor:
    """A monitored name, its owner, and whether training ends if the name is missing."""

    owner: str
    name: str
    mode: str | None
    strict: bool = True
    is_checkpoint: bool = False
    reads_metrics: bool = True


def _monitors(trainer: Trainer, module: LightningModule) -> Iterator[_Monitor]:
    for callback in callbacks_of(trainer):
        name, owner, mode = getattr(callback, "monitor", None), type(callback).__name__, getattr(callback, "mode", None)
        if not isinstance(name, str):
            continue
        if is_a(callback, ModelCheckpoint):
            if callback.save_top_k != 0:
                yield _Monitor(owner, name, mode, is_checkpoint=True)
        elif is_a(callback, EarlyStopping):
            yield _Monitor(owner, name, mode, strict=callback.strict)
        else:  # a user's callback, whose `monitor` may mean something else
            yield _Monitor(owner, name, mode, reads_metrics=not _METRICS.isdisjoint(_words_of(type(callback))))
    for config in trainer.lr_scheduler_configs if module.automatic_optimization else ():
        if config.reduce_on_plateau and config.monitor is not None:
            scheduler = config.scheduler
            yield _Monitor(type(scheduler).__name__, config.monitor, getattr(scheduler, "mode", None), config.strict)


def _names_logged(trainer: Trainer, module: LightningModule) -> dict[str, bool | None]:
    """Return the names that modules and callbacks state to log, with whether higher is better, if known."""
    names: dict[str, bool | None] = {}
    for source in (module, *callbacks_of(trainer)):
        names |= getattr(source, "names_logged", dict)()
    return names


def _is_open(monitor: _Monitor, trainer: Trainer) -> bool:
    """Return whether a name may be one of those that are known only once they are logged."""
    callbacks = callbacks_of(trainer)
    prefixes = ["gradient/"]
    if any(is_a(callback, LearningRateMonitor) for callback in callbacks):
        prefixes += ["lr-", *(config.name for config in trainer.lr_scheduler_configs if config.name)]
    return monitor.name.startswith(tuple(prefixes)) or (monitor.is_checkpoint and monitor.name in {"epoch", "step"})


def _refuse(monitor: _Monitor, names: Mapping[str, Any], trainer: Trainer, *, validates: bool) -> None:
    message = (
        f"Parameter `monitor` of `{monitor.owner}` should be a name that this fit logs. "
        f"Found `monitor = {monitor.name!r}`{'' if validates else ', and no validation'}."
        f"{near_matches(monitor.name, names) or _listed(names)}"
    )
    is_off = trainer.limit_val_batches == 0 and monitor.is_checkpoint  # training works, but nothing is saved
    if not monitor.strict or is_off or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by its connector
        rank_zero_warn(message)
    else:
        raise ConfigurationError(message)


def _warn_of_doubtful(monitor: _Monitor, names: set[str], logged: set[str] | None, *, validates: bool) -> None:
    """Warn about a name that the sanity check did not log, if it is of a validation or resembles a logged one."""
    is_of_validation = monitor.name.lower().startswith("val")
    is_nearly = _letters(monitor.name) in map(_letters, names)
    if monitor.name in names or not (is_nearly or (is_of_validation and (logged or not validates))):
        return
    evidence = f"the sanity check logged {_names(logged)}" if logged else "this fit has no validation"
    rank_zero_warn(
        f"Parameter `monitor` of `{monitor.owner}` should be a name that is logged: unless something else logs it, it "
        f"will be missing. Found `monitor = {monitor.name!r}`; {evidence}.{near_matches(monitor.name, names)}"
    )


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _listed(names: Mapping[str, Any]) -> str:
    return f" It logs {_names(names)}." if names else ""


def _names(names: Mapping[str, Any] | set[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _LISTED} more" if len(ordered) > _LISTED else ""
    return ", ".join(f"`{name}`" for name in ordered[:_LISTED]) + more


def _words_of(cls: type) -> set[str]:
    """Return all names and strings in the functions of a class, except those of Lightning and this library."""
    own = takewhile(lambda owner: not owner.__module__.startswith(_LIBRARIES), cls.__mro__)
    members = (member for owner in own for member in vars(owner).values())
    functions = (getattr(member, "__func__", None) or getattr(member, "fget", None) or member for member in members)
    codes = (getattr(unwrap(function), "__code__", None) for function in functions if callable(function))
    return {word for code in codes if code is not None for word in _words_in(code)}


def _words_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _words_in(constant)


def is_about_monitor(error: BaseException) -> bool:
    """Return whether `EarlyStopping` raised an error because its monitored metric is missing."""
    frames = list(walk_tb(error.__traceback__))
    raised_in = str(frames[-1][0].f_globals.get("__name__")) if frames else ""
    return isinstance(error, RuntimeError) and raised_in == EarlyStopping.__module__
