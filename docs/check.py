"""What is wrong with a site that was built: `python -m docs.check docs/_build/html`.

Broken links within the site, formulas and other markup left as they are written, and scripts, styles or pictures that
come from another host.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_RESOURCES = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
_RAW = ("`", "\\mathrm{", "\\lVert", "\\frac{", ".. math::", ":math:", ":doc:")
_SHOWN_AS_WRITTEN = {"code", "pre", "script", "style"}


@dataclass
class Page(HTMLParser):
    """What a page links to, loads and says.

    Attributes:
        links: The targets of its links.
        resources: What a browser loads with it.
        anchors: The places in it that a link can name.
        text: The text outside of code and of formulas, which MathJax sets.
    """

    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._inside: list[tuple[str, bool]] = []  # the tags that are open, and whether each holds code or a formula

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what a tag names."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if _RESOURCES.get(tag, "") in values and values.get("rel") not in {"next", "prev", "index", "search"}:
            self.resources.append(values[_RESOURCES[tag]])
        self._inside.append((tag, tag in _SHOWN_AS_WRITTEN or "math" in values.get("class", "").split()))

    def handle_endtag(self, tag: str) -> None:
        """Leave a tag, with those in it that are never closed."""
        opened = [name for name, _ in self._inside]
        if tag in opened:
            del self._inside[len(opened) - 1 - opened[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        """Take the text that a reader sees as text."""
        if not any(is_code for _, is_code in self._inside):
            self.text.append(data)


@cache
def read(file: Path) -> Page:
    """Read a page."""
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> Iterator[str]:
    """Yield what is wrong with a site, a line for each fault."""
    for file in sorted(site.rglob("*.html")):
        page, name = read(file), file.relative_to(site)
        for link in page.links:
            if not _resolves(link, file):
                yield f"{name}: the link `{link}` leads nowhere"
        for resource in page.resources:
            if urlsplit(resource).netloc or not _resolves(resource, file):
                yield f"{name}: `{resource}` is not in the site"
        for text in page.text:
            for raw in _RAW:
                if raw in text:
                    yield f"{name}: `{raw}` was left as it is written in {text.strip()[:80]!r}"


def count_links(site: Path) -> int:
    """Return the number of links within a site."""
    return sum(not urlsplit(link).netloc for file in site.rglob("*.html") for link in read(file).links)


def _resolves(link: str, file: Path) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if target.suffix != ".html" or not parts.fragment:
        return target.is_file()
    return target.is_file() and unquote(parts.fragment) in read(target).anchors


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m docs.check docs/_build/html")
    root = Path(sys.argv[1])
    sys.stdout.write(f"{len(list(root.rglob('*.html')))} pages, {count_links(root)} links within the site\n")
    sys.exit("\n".join(faults(root)) or None)
