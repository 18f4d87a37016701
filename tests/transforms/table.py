"""The table of all strategies in README.md: from their docstrings and their overlays."""

import re
from collections.abc import Iterator
from inspect import getdoc

from tests.strategies import OVERLAYS, STRATEGIES, overlay_name, spec_in

_ROOM = "lightning_sparsegrad.transforms."
_REFERENCE = re.compile(
    r"(?P<before>.*?)(?P<authors>(?:[A-Z]\. )+.*?|[A-Z][\w-]+), \"(?P<title>[^\"]+)\",? (?P<year>\d{4}), "
    r"(?P<url>http\S+?)(?P<after>, [^,]*)?\."
)


def lines() -> Iterator[str]:
    """Yield the lines of the table: clips, freezes, masks, and others."""
    yield "| strategy | overlays in `configs/gradient/` | what it does | source |"
    yield "|---|---|---|---|"
    for strategy in sorted(STRATEGIES, key=_order):
        named = [name for name in OVERLAYS if spec_in(name)["class_path"] == strategy.__name__]
        named.sort(key=lambda name: name != overlay_name(strategy))
        overlays = ", ".join(f"`{name}`" for name in named)
        yield f"| `{strategy.__name__}` | {overlays} | {summary(strategy)} | {source(strategy)} |"


def _order(strategy: type) -> tuple[bool, str]:
    room = strategy.__module__.removeprefix(_ROOM)
    return "." not in room, room


def summary(strategy: type) -> str:
    """Return the first line of a strategy's docstring."""
    first = (getdoc(strategy) or "").partition("\n\n")[0].replace("\n", " ")
    assert re.fullmatch(r"((?!:math:).)*\.", first), (
        f"the docstring of {strategy.__name__} should begin with one sentence, without formulas. Found {first!r}"
    )
    return first.removesuffix(".")


def source(strategy: type) -> str:
    """Return the authors, year and link of a strategy's reference; an empty string if it has none."""
    paragraphs = re.split(r"\n\n(?=[A-Z]\w+:\n)", getdoc(strategy) or "")
    references = [text.partition("\n")[2] for text in paragraphs if text.startswith("References:")]
    if not references:
        return ""
    text = " ".join(references[0].split())
    parsed = _REFERENCE.fullmatch(text)
    assert parsed, (
        f"`References` of {strategy.__name__} should read: A. Author and B. Author, or the name of a project, "
        f'"Title", year, URL, where. Found {text!r}'
    )
    authors = re.sub(r"\b[A-Z]\. ", "", parsed["authors"])
    return f"{parsed['before']}[{authors} {parsed['year']}]({parsed['url']}){parsed['after'] or ''}"
