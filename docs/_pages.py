"""The pages that each build generates: of the API, the strategies, the studies and the project."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import lightning_sparsegrad
from docs import _api_pages, _repository_pages, _strategy_pages
from docs._docstrings import Docstring
from tests.strategies import STRATEGIES

DOCS = Path(__file__).parent
GENERATED = ("api", "project", "strategies", "studies")  # folders that hold nothing else


def setup(app: Sphinx) -> dict[str, Any]:
    """Have Sphinx generate the pages before it reads them."""
    app.connect("builder-inited", lambda _: write_pages(DOCS))
    app.connect("source-read", _link_guide)
    app.connect("autodoc-process-docstring", _prepare_docstring, priority=400)  # before napoleon, with its 500
    app.connect("autodoc-process-bases", _show_public_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(docs: Path) -> None:
    """Write what is new or has changed, and remove the pages of what is gone."""
    pages = dict(_pages())
    for name, text in pages.items():
        file = docs / name
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    for folder in GENERATED:
        for file in (docs / folder).rglob("*.*"):
            if file.relative_to(docs).as_posix() not in pages:
                file.unlink()


def _pages() -> Iterator[tuple[str, str]]:
    yield from _api_pages.pages()
    yield from _strategy_pages.pages()
    yield from _repository_pages.pages()


def _link_guide(app: Sphinx, name: str, texts: list[str]) -> None:  # noqa: ARG001  # what Sphinx passes
    """Have a guide, whose links work in a checkout too, link to the pages of what it names."""
    if name.startswith("guides/"):
        texts[0] = _repository_pages.linked_guide(f"{name}.md", texts[0])


def _show_public_bases(app: Sphinx, name: str, item: type, options: object, bases: list[type]) -> None:  # noqa: ARG001  # what Sphinx passes
    """Put in the place of each base that the package does not export the nearest ones that it does, or others."""
    bases[:] = dict.fromkeys(public for base in bases for public in _public(base))


def _public(kind: type) -> Iterator[type]:
    if not kind.__module__.startswith("lightning_sparsegrad.") or kind.__name__ in lightning_sparsegrad.__all__:
        yield kind
    else:
        for base in kind.__bases__:
            yield from _public(base)


def _prepare_docstring(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:  # noqa: ARG001  # what Sphinx passes
    """Take out of a strategy's docstring what its page shows elsewhere."""
    if what == "property":
        lines.insert(0, "")  # napoleon reads a type in front of a colon in the first line, and there is none
    if item in STRATEGIES:
        lines[:] = Docstring.of(item).only("Args", "Attributes", "Raises")
