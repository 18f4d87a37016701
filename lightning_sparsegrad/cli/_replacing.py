"""Replacing a class in a config: nothing of the class before it, neither value nor default, reaches the new one."""

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
    """Take out of `before`, in place, each class that `new` replaces: by another one, or a transform by any.

    A strategy stays when its model alone is replaced.

    Args:
        before: What was read so far, with class paths in full.
        new: What comes over it, as it was written: file names, short class names and `a.b: value` included.
        inside: Whether `before` belongs to a transform, where a class that is named again starts anew as well.

    Returns:
        Whether the whole of `before` is replaced.
    """
    if not isinstance(before, list | Mapping | Namespace):
        return False
    new = read_config(new)
    if isinstance(before, list):
        if isinstance(new, Mapping | Namespace) and before:  # a flag, or a file: of the last item
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
        if not isinstance(arguments, dict | Namespace):  # none, or what jsonargparse will refuse
            return False
        if replaced:  # a task's strategy is not its own: it stays for the next one unless that has another
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
    else:  # of a chain or a list, the other items and their order stay
        before[key] = deepcopy(new)


def _is_same(before: Any, named: Any) -> bool:
    """Whether a class, known by its full path, is named again: in full, by another path, or by its name alone."""
    named = full_name(named) if isinstance(named, str) else named
    if before == named or not isinstance(before, str) or not isinstance(named, str):
        return bool(before == named)
    if "." not in named:
        return before.rpartition(".")[2] == named
    known = imported(before)
    return known is not None and known is imported(named)


def imported(path: Any) -> Any:
    """Return what a dotted path names if its module is imported, else `None`: reading a config imports nothing."""
    parts = path.split(".") if isinstance(path, str) else []
    for depth in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:depth]))
        if found is not None:
            for name in parts[depth:]:
                found = getattr(found, name, None)
            return found
    return None


def keep_other_names(before: Namespace, new: Namespace) -> None:
    """Complete the named transforms in `new` by those it leaves alone, which jsonargparse would drop."""
    for key, named in entries(new).items():
        chain = before.get(key)
        if isinstance(chain, dict) and isinstance(named, Mapping) and holds_transform(chain):
            for name, transform in named.items():
                if name not in chain and isinstance(transform, Mapping) and "class_path" not in entries(transform):
                    raise ConfigurationError(f"`{name}` is no transform of the chain.{near_matches(str(name), chain)}")
            new[key] = {**chain, **named}


def entries(value: Any) -> dict[str, Any]:
    """Return the entries of a mapping with `a.b: value` written as `a: {b: value}`; none of anything else."""
    if isinstance(value, Namespace):
        value = dict(value.items(branches=True, nested=False))
    found: dict[str, Any] = {}
    for key, entry in value.items() if isinstance(value, Mapping) else ():
        head, _, rest = str(key).partition(".")
        found[head] = {**entries(found.get(head)), rest: entry} if rest else entry
    return found


def holds_transform(value: Any) -> bool:
    """Whether a gradient transform is named anywhere in what was read."""
    if isinstance(value, list):
        return any(map(holds_transform, value))
    held = entries(value)
    return is_transform(held.get("class_path")) or any(map(holds_transform, held.values()))


def _is_module(class_path: Any) -> bool:
    found = imported(class_path)
    return isinstance(found, type) and issubclass(found, LightningModule)


def is_transform(class_path: Any) -> bool:
    """Whether a full path is that of a gradient transform, or of a function that returns one."""
    found = imported(class_path)
    if callable(found) and not isinstance(found, type):
        found = returned(found)
    return isinstance(found, type) and issubclass(found, GradientTransform)
