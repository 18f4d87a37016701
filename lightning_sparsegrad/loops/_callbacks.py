"""Access to the callbacks of a Trainer, and to those of this library that it has at most once."""

from typing import TypeVar

from lightning.pytorch import Callback, Trainer

_C = TypeVar("_C", bound=Callback)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the list of callbacks of a Trainer, which may be changed in place."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by its connector
    return callbacks


def put_first(trainer: Trainer, callback: Callback) -> None:
    """Put a callback before all others of a Trainer, in a new list."""
    others = [other for other in callbacks_of(trainer) if other is not callback]
    trainer.callbacks = [callback, *others]  # type: ignore[attr-defined]  # as above


def find_callback(trainer: Trainer, kind: type[_C]) -> _C | None:
    """Return the first callback of a class that a Trainer has, or `None`."""
    return next((callback for callback in callbacks_of(trainer) if isinstance(callback, kind)), None)


def find_or_add_callback(trainer: Trainer, kind: type[_C]) -> _C:
    """Return the callback of a class that a Trainer has; if there is none, append one."""
    if (callback := find_callback(trainer, kind)) is None:
        callbacks_of(trainer).append(callback := kind())
    return callback
