"""Hyperparameters of optimizers, schedulers and callbacks: a resumed run uses its own."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.resume._optimizers import Made, follow_new, settings_of

HYPERPARAMETERS_KEY = "lightning_sparsegrad_optimizers"  # in checkpoints, like the next key
_SEARCHED_KEY = "lightning_sparsegrad_searched"


class Hyperparameters:
    """The hyperparameters of a Trainer's fits: a resumed fit uses its own, and one line reports what differs.

    Its methods are called in the hooks they are named after; a second call has no effect.
    """

    _of: ClassVar["WeakKeyDictionary[Trainer, Hyperparameters]"] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._made: list[Made] = []
        self._optimizers: list[ref[Optimizer]] = []  # those of this fit
        self._checkpoint: dict[str, Any] | None = None  # until it is restored
        self._searched: list[list[Made]] = []  # the values before and after each search of the tuner

    @classmethod
    def of(cls, trainer: Trainer) -> "Hyperparameters":
        """Return the hyperparameters of a Trainer."""
        return cls._of.setdefault(trainer, cls())

    def load(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        _keep_arguments(trainer, checkpoint)
        if trainer.strategy.restore_checkpoint_after_setup:  # the fit has started
            self._follow(trainer, checkpoint)
        else:
            self._checkpoint = checkpoint

    def fit_start(self, trainer: Trainer) -> None:
        known = [optimizer() for optimizer in self._optimizers]
        if known and all(one is other for one, other in zip(known, trainer.optimizers, strict=False)):
            return
        self._optimizers, self._made = [ref(optimizer) for optimizer in trainer.optimizers], made_with(trainer)
        if self._checkpoint is not None and trainer.ckpt_path:
            self._follow(trainer, self._checkpoint)
        self._checkpoint = None

    def setup(self) -> None:
        self._searched = []

    def searched(self, trainer: Trainer) -> None:
        """Keep the optimizers' arguments before and after a search of the tuner, so that a resume reports neither."""
        self._searched.append(made_with(trainer))

    def save(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[HYPERPARAMETERS_KEY] = self._made
        if self._searched:
            checkpoint[_SEARCHED_KEY] = self._searched

    def _follow(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        before = checkpoint.get(HYPERPARAMETERS_KEY)
        checkpoint[HYPERPARAMETERS_KEY] = self._made
        self._searched = list(checkpoint.get(_SEARCHED_KEY) or ())
        before = _unless_searched(before, self._made, self._searched)
        follow_new(trainer, checkpoint, before, self._made)


def made_with(trainer: Trainer) -> list[Made]:
    """Return the arguments of each optimizer and its schedulers as plain values, before anything is restored."""
    configs = list(enumerate(trainer.lr_scheduler_configs))
    return [
        {
            "class": _name_of(optimizer),
            "groups": [_plain(settings_of(group)) for group in optimizer.param_groups],
            "schedulers": [
                {
                    "class": _name_of(config.scheduler),
                    "interval": config.interval,
                    "place": index,  # among the schedulers of all optimizers
                    "made": _plain(config.scheduler.state_dict()),
                }
                for index, config in configs
                if config.scheduler.optimizer is optimizer
            ],
        }
        for optimizer in trainer.optimizers
    ]


def _unless_searched(before: Any, made: Any, searched: list[Any]) -> Any:
    """Return the previous values, replaced by the new ones where these equal a value before or after a search."""
    if isinstance(before, dict) and isinstance(made, dict):
        return {
            name: _unless_searched(value, made[name], [each.get(name) for each in searched if isinstance(each, dict)])
            if name in made
            else value
            for name, value in before.items()
        }
    if isinstance(before, list) and isinstance(made, list) and len(before) == len(made):
        alike = [each for each in searched if isinstance(each, list) and len(each) == len(made)]
        return [
            _unless_searched(*pair, [each[index] for each in alike])
            for index, pair in enumerate(zip(before, made, strict=True))
        ]
    return made if made in searched else before


def _keep_arguments(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Make callbacks keep their new arguments, such as the patience of `EarlyStopping`."""
    states = checkpoint.get("callbacks") or {}
    for callback in callbacks_of(trainer):
        state = states.get(callback.state_key)
        # a ModelCheckpoint needs its old arguments: its folder identifies the files of this run
        if isinstance(state, dict) and not isinstance(callback, Checkpoint):
            for name in signature(type(callback)).parameters.keys() & state.keys() & vars(callback).keys():
                state[name] = getattr(callback, name)


def _name_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _plain(value: Any) -> Any:
    """Return a value as plain data for a checkpoint; for any other type, the name of its class."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return _name_of(value)
