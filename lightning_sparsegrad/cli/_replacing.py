"""Replacement of a class in a config: no value and no default of the old class reaches the new one."""

import sys
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule

from lightning_sparsegrad.cli._config_files import read_config
from lightning_sparsegrad.errors import ConfigurationError, near_matches
from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.untrusted._jsonargparse import full_name, returned


def discard_replaced(before: Any, new: Any, *, inside: bool = False) -> bool:
    """Remove from `before`, in place, each class that `new` replaces.

    A class is replaced if `new` names another one; a transform is replaced even if `new` names the same class. If only
    the model is replaced, its strategy stays.

    Args:
        before: The values read so far, with full class paths.
        new: The values that overlay them, as written: file names, short class names and `a.b: value` are allowed.
        inside: Whether `before` belongs to a transform, where naming the same class again resets it too.

    Returns:
        Whether the whole of `before` is replaced.
    """
    if not isinstance(before, list | Mapping | Namespace):
        return False
    new = read_config(new)
    if isinstance(before, list):
        if isinstance(new, Mapping | Namespace) and before:  # a flag or a file, which sets the last item
            new = [*before[:-1], new]
        if isinstance(new, list) and len(new) == len(before):
            for index, value in enumerate(new):
                if value is not before[index]:
                    _discard_entry(before, index, value, inside=inside or holds_transform(before[index]))
        return False
    new_entries = entries(new)
    if "class_path" in before:
        inside = inside or is_transform(before["class_path"])
        named = new if isinstance(new, str) else new_entries.get("class_path")
        replaced = named is not None and (inside or not _is_same(before["class_path"], named))
        if replaced and (inside or not _is_module(before["class_path"])):
            return True
        arguments: Any = before.get("init_args")
        if not isinstance(arguments, dict | Namespace):  # none, or a value that jsonargparse will refuse
            return False
        if replaced:  # a new task keeps the strategy unless it comes with its own
            for key in [key for key, value in entries(arguments).items() if not holds_transform(value)]:
                arguments.pop(key)
        before = arguments
        new_entries |= entries(new_entries.get("init_args"))
    for key, value in new_entries.items():
        if before.get(key) is not None:
            _discard_entry(before, key, value, inside=inside)
    return False


def _discard_entry(before: Any, key: Any, new: Any, *, inside: bool) -> None:
    if not discard_replaced(before[key], new, inside=inside):
        return
    if isinstance(before, Namespace):
        before.pop(key)
    else:  # the other items of a chain or list keep their order
        before[key] = deepcopy(new)


def _is_same(before: Any, named: Any) -> bool:
    """Whether `named` is the class with the full path `before`: by that path, another one, or its name alone."""
    named = full_name(named) if isinstance(named, str) else named
    if before == named or not isinstance(before, str) or not isinstance(named, str):
        return bool(before == named)
    if "." not in named:
        return before.rpartition(".")[2] == named
    known = imported(before)
    return known is not None and known is imported(named)


def imported(path: Any) -> Any:
    """Return the object at a dotted path if its module is imported, else `None`: reading a config imports nothing."""
    words = path.split(".") if isinstance(path, str) else []
    for depth in range(len(words) - 1, 0, -1):
        value: Any = sys.modules.get(".".join(words[:depth]))
        if value is not None:
            for name in words[depth:]:
                value = getattr(value, name, None)
            return value
    return None


def keep_other_names(before: Namespace, new: Namespace) -> None:
    """Add to the named transforms in `new` those that it does not mention, which jsonargparse would drop."""
    for key, named in entries(new).items():
        chain = before.get(key)
        if isinstance(chain, dict) and isinstance(named, Mapping) and holds_transform(chain):
            for name, transform in named.items():
                if name not in chain and isinstance(transform, Mapping) and "class_path" not in entries(transform):
                    raise ConfigurationError(
                        f"`{name}` is not a transform of the chain.{near_matches(str(name), chain)}"
                    )
            new[key] = {**chain, **named}


def entries(value: Any) -> dict[str, Any]:
    """Return the entries of a mapping, with `a.b: value` as `a: {b: value}`; empty for anything else."""
    if isinstance(value, Namespace):
        value = dict(value.items(branches=True, nested=False))
    result: dict[str, Any] = {}
    for key, entry in value.items() if isinstance(value, Mapping) else ():
        head, _, rest = str(key).partition(".")
        result[head] = {**entries(result.get(head)), rest: entry} if rest else entry
    return result


def holds_transform(value: Any) -> bool:
    """Whether a gradient transform is named anywhere in a value."""
    if isinstance(value, list):
        return any(map(holds_transform, value))
    held = entries(value)
    return is_transform(held.get("class_path")) or any(map(holds_transform, held.values()))


def _is_module(class_path: Any) -> bool:
    cls = imported(class_path)
    return isinstance(cls, type) and issubclass(cls, LightningModule)


def is_transform(class_path: Any) -> bool:
    """Whether a full path names a gradient transform, or a function that returns one."""
    named = imported(class_path)
    if callable(named) and not isinstance(named, type):
        named = returned(named)
    return isinstance(named, type) and issubclass(named, GradientTransform)
