"""Changes to what autodoc shows of a class."""

# ruff: noqa: ARG001  # Sphinx passes more than is needed here
from abc import ABC
from collections.abc import Iterator

from sphinx.application import Sphinx

import lightning_sparsegrad
from docs._docstrings import Docstring
from tests.strategies import STRATEGIES


def connect(app: Sphinx) -> None:
    """Have autodoc ask for the changes."""
    app.connect("autodoc-process-bases", _show_public_bases)
    app.connect("autodoc-process-docstring", _leave_to_the_page, priority=400)  # napoleon's is 500
    properties: dict[str, list[str]] = {}

    def keep(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
        if what == "property":
            properties[name] = list(lines)

    def restore(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
        lines[:] = properties.pop(name, lines)  # napoleon takes what stands in front of a colon for a type

    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)


def _show_public_bases(app: Sphinx, name: str, item: type, options: object, bases: list[type]) -> None:
    """Put in the place of each base that the package does not export the nearest ones that it does, or others."""
    shown = dict.fromkeys(public for base in bases for public in _public(base))
    bases[:] = [base for base in shown if base not in {ABC, object}]


def _public(kind: type) -> Iterator[type]:
    if not kind.__module__.startswith("lightning_sparsegrad.") or kind.__name__ in lightning_sparsegrad.__all__:
        yield kind
    else:
        for base in kind.__bases__:
            yield from _public(base)


def _leave_to_the_page(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Take out of a strategy's docstring what its page shows elsewhere."""
    if item in STRATEGIES:
        lines[:] = Docstring.of(item).only("Args", "Attributes", "Raises")
