"""Private names of jsonargparse, with which functions are treated like classes and dangerous names are refused.

`optimizer: Callable[[Iterable], Optimizer]` accepts the path of a class with some of its arguments, to be called later
with the rest. Given the path of a *function*, jsonargparse 4.53 calls it at once, whatever it is, and uses its result
as the callable. This module makes every parser of the process treat a function like a class: it must be annotated to
return the expected type, and is called later. This can go when jsonargparse does the same. Names of which jsonargparse
warns and which version 5 will refuse (`os`, `subprocess` and others that no config needs) are refused already, without
importing them. `tests/private_names.py` records what breaks without each private name, and the upstream issue.
"""

import re
from collections.abc import Callable, Iterator
from functools import update_wrapper, wraps
from inspect import isclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, _typehints, _util, set_parsing_settings
from jsonargparse._common import ImportDenied
from jsonargparse._typehints import accepts_any_value, get_callable_return_type, get_subclass_types, is_protocol
from jsonargparse._util import import_object
from torch.optim.lr_scheduler import LRScheduler

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops import learning_rates
from lightning_sparsegrad.untrusted._imports import ImportRefusedError, require_importable

__all__ = [
    "ImportDenied",
    "accepts_any_value",
    "check_each_value",
    "classes_asked_for",
    "find",
    "full_name",
    "import_object",
    "makes",
    "members",
    "returned",
]

# names of schedules in `transformers`, which have no annotation; except one that does not return an LRScheduler
_SCHEDULES = re.compile(r"get_(?!greedy)\w*schedule(_\w+)?")
_SCHEDULES_MODULE = "transformers.optimization"


def makes(function: Any, types: tuple[type, ...]) -> bool:
    """Whether a function is annotated to return one of the types, or is a schedule of transformers."""
    if is_schedule_of_transformers(function):
        return any(issubclass(LRScheduler, kind) for kind in types)
    kinds = list(members(returned(function)))
    return all(isclass(kind) and issubclass(kind, types) for kind in kinds)


def returned(function: Any) -> Any:
    """Return the annotated return type of a function, or `None` without a readable annotation."""
    try:
        return get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):
        return None


def is_schedule_of_transformers(function: Any) -> bool:
    """Whether a function is one of transformers' `get_*_schedule*`."""
    name = getattr(function, "__name__", "")
    return getattr(function, "__module__", None) == _SCHEDULES_MODULE and _SCHEDULES.fullmatch(name) is not None


def full_name(name: str) -> str:
    """Return the path of a schedule of transformers, ours if it takes a length; any other name unchanged."""
    module, _, last = name.rpartition(".")
    if not _SCHEDULES.fullmatch(last) or module not in {"", "transformers", _SCHEDULES_MODULE}:
        return name
    return f"{learning_rates.__name__ if last in learning_rates.__all__ else _SCHEDULES_MODULE}.{last}"


def classes_asked_for(callable_type: Any) -> tuple[type, ...]:
    """Return the classes whose instances a callable should return; none if it may return anything."""
    kind = get_callable_return_type(callable_type)  # type: ignore[no-untyped-call]
    return get_subclass_types(kind) or () if kind else ()  # type: ignore[no-untyped-call]


def members(hint: Any) -> Iterator[Any]:
    """Yield the types of a union, with nested unions flattened; for any other type, the type itself."""
    origin = get_origin(hint)
    if origin in {Union, UnionType} or origin is Annotated:
        for member in get_args(hint)[: 1 if origin is Annotated else None]:
            yield from members(member)
    else:
        yield hint


_check_value: Callable[..., Any] = ArgumentParser._check_value_key
_adapt_class: Callable[[Any, Any], tuple[Any, set[Any] | None]] = _typehints.adapt_partial_callable_class


def _adapt_class_or_function(callable_type: Any, spec: Any) -> tuple[Any, set[Any] | None]:
    """Return the named class or function, and the parameters of its later call; `None` if it is called at once."""
    types = classes_asked_for(callable_type)
    if LRScheduler in types and spec.class_path != full_name(spec.class_path):
        spec = spec.clone()
        spec.class_path = full_name(spec.class_path)
    spec, later = _adapt_class(callable_type, spec)
    if later is not None or not types:
        return spec, later
    named = import_object(spec.class_path)
    if isclass(named):
        return spec, later
    if is_protocol(callable_type) or not makes(named, types):
        kinds = " or ".join(kind.__name__ for kind in types)
        raise ImportError(f"`{spec.class_path}` is not of type {kinds} and not annotated to return it")
    return spec, {len(callable_type.__args__) - 1}


def check_each_value(check: Callable[[Any, Any], None]) -> None:
    """Make every parser of the process check the values of parameters before it instantiates them.

    This includes the parser of Lightning's `load_from_checkpoint`.

    Args:
        check: A function of a value and the type of its parameter, which raises `TypeError` to refuse the value.
    """

    @wraps(_check_value, assigned=())
    def check_value_key(self: ArgumentParser, action: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        typehint = getattr(action, "_typehint", None)
        if typehint is not None:
            try:
                check(value, typehint)
            except TypeError as error:
                raise TypeError(f'Parser key "{action.dest}":\n  {error}') from error
        return _check_value(self, action, value, *args, **kwargs)

    ArgumentParser._check_value_key = check_value_key  # type: ignore[method-assign]


def find(path: Any) -> Any:
    """Return the object that a dotted name in a checkpoint refers to, or `None` if it does not exist.

    Raises:
        ImportRefusedError: If its module is not imported, see `require_importable`.
    """
    try:
        return import_object(path)
    except ImportDenied as error:
        raise ImportRefusedError(str(error)) from error
    except (ImportError, AttributeError, ValueError):
        return None
    except Exception as error:  # running a module may raise anything
        raise ConfigurationError(f"`{path}` should be importable. Found: {str(error) or repr(error)}") from error


def _check_import(path: str) -> None:
    """Refuse a name before importing anything for it: names on jsonargparse's list, and by `require_importable`."""
    _check_path(path)
    try:
        require_importable(path)
    except ImportRefusedError as error:
        raise ImportDenied(str(error)) from error


# Names on jsonargparse's own list are refused instead of warned of. Its public list cannot express the rules of
# `require_importable`, which depend on whether a module is imported already, what it defines, and where it lies.
set_parsing_settings(import_path_denylist=[])
_check_path: Callable[[str], None] = _util.check_import_path  # type: ignore[attr-defined]
if _check_path.__module__ != __name__:  # not yet replaced
    _util.check_import_path = _typehints.check_import_path = _check_import  # type: ignore[attr-defined]
    update_wrapper(_check_import, _check_path, assigned=())  # keeps a reference to the original
if _adapt_class.__module__ == _typehints.__name__:  # not yet replaced
    _typehints.adapt_partial_callable_class = _adapt_class_or_function
    update_wrapper(_adapt_class_or_function, _adapt_class, assigned=())
