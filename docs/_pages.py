"""The pages that each build generates: of the API, the strategies, the studies and the project."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from docs import _api_pages, _autodoc, _repository_pages, _strategy_pages

DOCS = Path(__file__).parent
GENERATED = ("api", "examples", "project", "strategies", "studies")  # folders that hold nothing else


def setup(app: Sphinx) -> dict[str, Any]:
    """Have Sphinx generate the pages before it reads them."""
    app.connect("builder-inited", lambda _: write_pages(DOCS))
    app.connect("source-read", _repository_pages.relink)
    _autodoc.connect(app)
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
