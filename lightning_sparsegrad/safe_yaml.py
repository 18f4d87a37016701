"""YAML of any origin: plain values only, of a bounded size and depth, and every key once."""

from dataclasses import dataclass, field
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

PARSER_MODE = "sparsegrad_yaml"
_MAX_DEPTH = 100  # levels; what reads a config calls itself once a level
_MAX_ENTRIES = 1_000_000  # values with aliases written out; nine lines of aliases can stand for 10^9
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str) -> Any:
    """Return what a text says, as jsonargparse reads it: tags of Python objects are refused.

    Raises:
        yaml.YAMLError: If it is no YAML, a key comes twice, or it is too deep or too large, aliases written out.
    """
    _check(text)
    return get_loader("yaml")(text)


set_loader(PARSER_MODE, load, exceptions=(yaml.YAMLError,))


@dataclass
class _Collection:
    anchor: str | None = None
    is_mapping: bool = False
    size: int = 1
    entries: int = 0
    keys: set[str] = field(default_factory=set)


def _check(text: str) -> None:
    sizes: dict[str, int] = {}
    open_: list[_Collection] = [_Collection()]
    for event in yaml.parse(text, Loader=_Loader):
        size = 1
        if isinstance(event, yaml.AliasEvent):
            if any(collection.anchor == event.anchor for collection in open_):
                raise _refusal(f"`*{event.anchor}` stands for what it is a part of", event)
            size = sizes.get(event.anchor or "", 1)  # an unknown one is refused when it is read
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append(_Collection(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(open_) > _MAX_DEPTH:
                raise _refusal(f"more than {_MAX_DEPTH} levels", event)
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = open_.pop()
            size = closed.size
            if closed.anchor is not None:
                sizes[closed.anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            _check_key(open_[-1], event)
        else:
            continue
        open_[-1].size += size
        open_[-1].entries += 1
        if open_[-1].size > _MAX_ENTRIES:
            raise _refusal(f"more than {_MAX_ENTRIES} values, with aliases written out", event)


def _check_key(collection: _Collection, event: yaml.ScalarEvent) -> None:
    if not collection.is_mapping or collection.entries % 2:
        return
    if event.value in collection.keys:
        raise _refusal(f"the key `{event.value}` comes twice", event)
    collection.keys.add(event.value)


def _refusal(problem: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]  # libyaml's
