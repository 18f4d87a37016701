"""The pages of the API: what `lightning_sparsegrad` exports, by the folder it is written in."""

from abc import ABC
from collections.abc import Iterator
from inspect import isclass, isroutine
from re import fullmatch
from typing import Generic

import lightning_sparsegrad
from tests.strategies import STRATEGIES, overlay_name

TITLES = {
    "engine": "Engine",
    "transforms": "Strategies and their bases",
    "schedules": "Schedules",
    "components": "Components",
    "modules": "Modules",
    "data": "Data",
    "callbacks": "Callbacks",
    "resume": "Resume",
    "cli": "Command line",
    "export": "Export",
    "loops": "Training loops",
    "errors": "Errors",
}


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page."""
    groups: dict[str, list[str]] = {}
    for name in sorted(lightning_sparsegrad.__all__):
        item = getattr(lightning_sparsegrad, name)
        groups.setdefault(item.__module__.split(".")[1], []).append(name)
    order = sorted(groups, key=lambda group: (list(TITLES).index(group) if group in TITLES else len(TITLES), group))
    yield "api/index.rst", _index(order)
    for group in order:
        yield f"api/{group}.rst", "\n".join(_page(group, groups[group]))


def title(text: str, line: str = "=") -> str:
    """Return a title in reStructuredText."""
    return f"{text}\n{line * len(text)}\n"


def inheritance(item: object) -> str:
    """Return the option that shows the bases of a class, or their members if all its bases are private to us."""
    bases = set(item.__mro__[1:]) - {ABC, Generic, object} if isclass(item) else set()
    if bases and all(fullmatch(r"lightning_sparsegrad\..*\b_\w+", base.__module__) for base in bases):
        return "   :inherited-members: ABC\n"
    return "   :show-inheritance:\n" if bases else ""


def _index(groups: list[str]) -> str:
    entries = "\n".join(f"   {group}" for group in groups)
    return (
        f"{title('API')}\n"
        "All of it is imported from ``lightning_sparsegrad`` itself; nothing is loaded before it is asked for.\n\n"
        f".. toctree::\n   :maxdepth: 2\n\n{entries}\n"
    )


def _page(group: str, names: list[str]) -> Iterator[str]:
    yield title(TITLES.get(group, group))
    strategies = {strategy.__name__: strategy for strategy in STRATEGIES}
    for name in names:
        if name in strategies:
            yield f"* :doc:`{name} <../strategies/{overlay_name(strategies[name])}>`"
    yield ""
    for name in names:
        item = getattr(lightning_sparsegrad, name)
        if name not in strategies:
            kind = "class" if isclass(item) else "function" if isroutine(item) else "data"
            yield f"{title(name, '-')}\n.. auto{kind}:: lightning_sparsegrad.{name}\n{inheritance(item)}"
