"""Restrictions on the classes and functions that a config may call, since jsonargparse would call any."""

import sys
from collections.abc import Callable, Iterator, Mapping
from inspect import isclass
from pathlib import Path
from typing import Any, get_args, get_origin

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.untrusted._imports import is_standard
from lightning_sparsegrad.untrusted._jsonargparse import (
    ImportDenied,
    accepts_any_value,
    check_each_value,
    classes_asked_for,
    full_name,
    import_object,
    makes,
    members,
    returned,
)

# classes that a `class_path` may name if the parameter has no type; a LightningModule and a metric are modules
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


_OURS = __name__.partition(".")[0]
_INSTALLED = {"site-packages", "dist-packages"}


def require_callable(value: Any, typehint: Any) -> None:
    """Refuse a class or function that the type of a parameter does not expect.

    jsonargparse itself checks parameters that expect a class, or a callable that returns an instance of one. Elsewhere
    it calls whatever a config names: a function with its arguments for a callable, and anything for a parameter without
    a type.

    Args:
        value: The value of the parameter. The arguments of a class in it are checked as parameters of their own.
        typehint: The type of the parameter.

    Raises:
        TypeError: If it would be called.
    """
    for path, has_arguments, hints in _named(value, list(members(typehint))):
        anything = any(map(accepts_any_value, hints))
        if not (anything or any(map(_is_callable, hints))) or not isinstance(path, str) or "." not in path:
            continue
        try:
            named = import_object(path)
        except ImportDenied as error:
            raise TypeError(str(error)) from error
        except (ImportError, AttributeError, ValueError):
            continue  # jsonargparse reports it
        if not has_arguments and not isclass(named):
            continue  # it is passed on without being called
        if isclass(named) and not anything and all(map(classes_asked_for, filter(_is_callable, hints))):
            continue  # jsonargparse checks it
        if not any(_takes(hint, named) for hint in hints):
            asks = "expects no function with this return type"
            if anything:
                asks = "has no type that expects it"
            elif not _is_own(named):
                asks = "expects a callable, and callables of installed packages may run anything"
            raise TypeError(f"`{path}` is not called: the parameter {asks}")


check_each_value(require_callable)


def maker(value: Any, typehint: Any) -> Any:
    """Return the name of a function as a class path, if the parameter expects a callable that returns an instance.

    Args:
        value: The value of the parameter.
        typehint: The type of the parameter.
    """
    types = tuple(kind for hint in members(typehint) if _is_callable(hint) for kind in classes_asked_for(hint))
    if not types or not isinstance(value, str):
        return value
    path = full_name(value) if LRScheduler in types else value
    try:
        named = import_object(path)
    except (ImportError, AttributeError, ValueError):  # a file, a short name, or a value that jsonargparse will refuse
        return value
    return value if isclass(named) or not makes(named, types) else {"class_path": path}


def _named(value: Any, hints: list[Any]) -> Iterator[tuple[Any, bool, list[Any]]]:
    """Yield each name in a value, also in lists and dicts; whether it comes with arguments; and its allowed types."""
    if isinstance(value, Mapping | Namespace):
        items = dict(value.items(branches=True, nested=False)) if isinstance(value, Namespace) else value
        if "class_path" in items:
            yield items["class_path"], True, hints
            return
        for entry in items.values():
            yield from _named(entry, list(_inner(hints)))
    elif isinstance(value, str):
        if any(map(_is_callable, hints)) and not any(hint is str or accepts_any_value(hint) for hint in hints):
            yield value, False, hints
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _named(entry, list(_inner(hints)))


def _inner(hints: list[Any]) -> Iterator[Any]:
    """Yield the types of the items of a list, a tuple or a dict, if the parameter may be one."""
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
        if types:
            return issubclass(named, types) if isclass(named) else makes(named, types)
        makes_callable = _can_be_called(named) if isclass(named) else all(map(_can_be_called, members(returned(named))))
        is_module = isclass(named) and issubclass(named, _KINDS)
        # otherwise some callables compile a text, or start a program when they are called
        return makes_callable and (is_module or _is_own(named))
    return isclass(hint) and isclass(named) and issubclass(named, hint)


def _is_own(named: Any) -> bool:
    """Return whether a class or function is the user's or ours, rather than of an installed package or of Python."""
    name = str(getattr(named, "__module__", None))
    file = getattr(sys.modules.get(name), "__file__", None)
    package = name.partition(".")[0]
    is_installed = file is None or is_standard(file) or bool(_INSTALLED & {*Path(file).parts})
    return package in ("__main__", _OURS) or not is_installed


def _can_be_called(hint: Any) -> bool:
    return _is_callable(hint) or (isclass(hint) and any("__call__" in vars(base) for base in hint.__mro__))
