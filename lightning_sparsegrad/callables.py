"""Which classes and functions of a config may be called, where jsonargparse would call any."""

from collections.abc import Callable, Iterator, Mapping
from inspect import isclass
from typing import Any, get_args, get_origin

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from lightning_sparsegrad._jsonargparse import (
    ImportDenied,
    accepts_any_value,
    classes_asked_for,
    full_name,
    import_object,
    makes,
    members,
    returned,
)
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.base import GradientTransform

# what is made of a `class_path` where a parameter has no type; a LightningModule and a metric are modules
_KINDS = (
    nn.Module,
    Optimizer,
    LRScheduler,
    LightningDataModule,
    Dataset,
    Callback,
    Logger,
    GradientTransform,
    Schedule,
)


def require_callable(value: Any, typehint: Any) -> None:
    """Refuse a class or a function that the type of a parameter does not ask for.

    jsonargparse sees to it where a class is asked for, or something that returns an instance of one. Elsewhere it calls
    what is named: in the place of a callable, a function with its arguments; without a type, anything.

    Args:
        value: What a parameter is given. Arguments of what it names are checked as parameters of their own.
        typehint: The type of the parameter.

    Raises:
        TypeError: If it would be called.
    """
    for spec, hints in _specs(value, list(members(typehint))):
        anything, path = any(map(accepts_any_value, hints)), spec["class_path"]
        if not (anything or any(map(_is_callable, hints))) or not isinstance(path, str) or "." not in path:
            continue
        try:
            named = import_object(path)
        except ImportDenied as error:
            raise TypeError(str(error)) from error
        except (ImportError, AttributeError, ValueError):
            continue  # jsonargparse says so
        if (anything or not isclass(named)) and not any(_takes(hint, named) for hint in hints):
            asks = (
                "has no type that asks for one" if anything else "asks for no function that returns what this one does"
            )
            raise TypeError(f"`{path}` is not called: the parameter {asks}")


def maker(value: Any, typehint: Any) -> Any:
    """Return a function's name as one to be given arguments, where one that makes an instance of a class is asked for.

    Args:
        value: What a parameter is given.
        typehint: The type of the parameter.
    """
    types = tuple(kind for hint in members(typehint) if _is_callable(hint) for kind in classes_asked_for(hint))
    if not types or not isinstance(value, str):
        return value
    path = full_name(value) if LRScheduler in types else value
    try:
        named = import_object(path)
    except (ImportError, AttributeError, ValueError):  # a file, a short name, or what jsonargparse will refuse
        return value
    return value if isclass(named) or not makes(named, types) else {"class_path": path}


def _specs(value: Any, hints: list[Any]) -> Iterator[tuple[Mapping[str, Any] | Namespace, list[Any]]]:
    """Return what names a class in a value, in lists and dicts as well, with the types it may have there."""
    if isinstance(value, Mapping | Namespace):
        items = dict(value.items(branches=True, nested=False)) if isinstance(value, Namespace) else value
        if "class_path" in items:
            yield items, hints
            return
        for entry in items.values():
            yield from _specs(entry, list(_inner(hints)))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _specs(entry, list(_inner(hints)))


def _inner(hints: list[Any]) -> Iterator[Any]:
    """Return the types of the items, where there may be a list, a tuple or a dict."""
    for hint in hints:
        if accepts_any_value(hint):
            yield hint
        elif not _is_callable(hint):
            for inner in get_args(hint):
                yield from members(inner)


def _is_callable(hint: Any) -> bool:
    return hint is Callable or get_origin(hint) is Callable


def _takes(hint: Any, named: Any) -> bool:
    if accepts_any_value(hint):
        return isclass(named) and issubclass(named, _KINDS)
    if _is_callable(hint):
        types = classes_asked_for(hint)
        if isclass(named):
            return issubclass(named, types) if types else _can_be_called(named)
        return makes(named, types) if types else all(map(_can_be_called, members(returned(named))))
    return isclass(hint) and isclass(named) and issubclass(named, hint)


def _can_be_called(hint: Any) -> bool:
    return _is_callable(hint) or (isclass(hint) and any("__call__" in vars(base) for base in hint.__mro__))
