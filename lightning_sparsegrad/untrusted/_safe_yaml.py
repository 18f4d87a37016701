"""Safe YAML, with plain values only, limited size and depth, and no duplicate keys."""

from ast import literal_eval
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from lightning_sparsegrad.untrusted._plain import MAX_DEPTH, MAX_VALUES

PARSER_MODE = "sparsegrad_yaml"
_MAX_DIGITS = 100  # Python refuses thousands of digits, and no setting needs more than these
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = {True: "yes, on or true", False: "no, off or false", None: "null"}
_NOT_NAMES = ("bool", "null")  # tags that no key can have; a number can be a key, such as an epoch


def load(text: str) -> Any:
    """Parse a text like jsonargparse, but refuse tags of Python objects.

    Raises:
        yaml.YAMLError: If it is not valid YAML, has a key twice, or is too deep or, with aliases expanded, too large.
    """
    _check(text)
    return get_loader("yaml")(text)


_resolver = yaml.SafeLoader("")
set_loader(PARSER_MODE, load, exceptions=(yaml.YAMLError,))


def how_to_quote(expected: str, given: str) -> str:
    """Return a hint on how to write a name that YAML reads as something else; empty if that is not the fault.

    Args:
        expected: The allowed types, as jsonargparse lists them.
        given: The value in Python's notation.

    Example:
        >>> how_to_quote("list[str]", "['en', False]")
        ' YAML reads no, off or false as False: if it is a name, quote it, as in "no".'
    """
    try:
        values = list(_scalars(literal_eval(given)))
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # a text without quotation marks
        return _refused(given) if given.startswith(("[", "{")) else ""
    value = next((value for value in values if not isinstance(value, str)), "")
    if "str" not in expected or value == "":
        return ""
    words = _WORDS.get(value) if value is None or isinstance(value, bool) else None
    if words is None:
        return f" YAML reads it as the number {value}: if it is a name, quote it."
    return f' YAML reads {words} as {value}: if it is a name, quote it, as in "{words.partition(",")[0]}".'


def _refused(text: str) -> str:
    try:
        load(text)
    except yaml.MarkedYAMLError as error:
        return f" It is not valid YAML: {error.problem}."
    except yaml.YAMLError:
        pass
    return ""


def _scalars(value: Any) -> Iterator[Any]:
    """Yield the values in lists and mappings."""
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if entries is None:
        yield value
    else:
        for entry in entries:
            yield from _scalars(entry)


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
                raise _refusal(f"`*{event.anchor}` contains itself", event)
            size = sizes.get(event.anchor or "", 1)  # an unknown anchor is refused by the parser
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append(_Collection(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(open_) > MAX_DEPTH:
                raise _refusal(f"more than {MAX_DEPTH} levels", event)
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = open_.pop()
            size = closed.size
            if closed.anchor is not None:
                sizes[closed.anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            _check_key(open_[-1], event)
            if event.implicit[0] and len(event.value) > _MAX_DIGITS and not event.value.strip("+-_0123456789"):
                raise _refusal(f"a number of more than {_MAX_DIGITS} digits", event)
        else:
            continue
        open_[-1].size += size
        open_[-1].entries += 1
        if open_[-1].size > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES} values, with aliases expanded", event)


def _check_key(collection: _Collection, event: yaml.ScalarEvent) -> None:
    if not collection.is_mapping or collection.entries % 2:
        return
    if event.value in collection.keys:
        raise _refusal(f"the key `{event.value}` occurs twice", event)
    collection.keys.add(event.value)
    tag = _resolver.resolve(yaml.ScalarNode, event.value, event.implicit) or ""  # type: ignore[no-untyped-call]
    if tag.rpartition(":")[2] in _NOT_NAMES and event.value:
        raise _refusal(f'the key `{event.value}` is not read as text: quote it, as in "{event.value}"', event)


def _refusal(problem: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]  # libyaml's
