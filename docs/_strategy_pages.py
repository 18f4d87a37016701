"""A page for each strategy: from its docstring, its overlays, its golden row, its pictures and the studies."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from docs import _evidence
from docs._api_pages import inheritance, title
from docs._docstrings import Docstring
from docs._overlays import CHANGED, SPIKES, learning, overlays_of
from tests.strategies import ROOT, STRATEGIES, overlay_name
from tests.transforms import table

PICTURES = ROOT / "docs" / "pictures"
_OF_STUDIES = re.compile(r"\(benchmarks/studies: ([\w, ]+)\)")
_ALT = "Heat maps of layers by optimizer steps under {}: gradient norms before and after, shares left and kept"
_ALT_OF_SPIKES = "Gradient norms before and after {}, and its threshold, by optimizer step, with bad batches marked"
_OF_SPIKES = (
    "A run with bad batches: MiniLM learns the words of the quickstart in batches of 16; after 100 steps every 20th "
    "batch has wrong labels and a loss a hundred times as large."
)
_CAPTION = (
    "MiniLM learns the words of the quickstart for 96 steps; a row is a tensor, and grey has no gradient: "
    ":ref:`how to read it <how-to-read-the-pictures>`."
)


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page."""
    yield "strategies/index.md", "\n".join(_index())
    for strategy in STRATEGIES:
        yield f"strategies/{overlay_name(strategy)}.rst", "\n".join(_page(strategy))


def _index() -> Iterator[str]:
    yield "# Strategies\n"
    yield with_links("\n".join(table.lines()))
    yield "\n(how-to-read-the-pictures)=\n\n```{include} ../_pictures.md\n```\n"
    yield "```{toctree}\n:hidden:\n"
    yield from (overlay_name(strategy) for strategy in STRATEGIES)
    yield "```"


def with_links(text: str, folder: str = "") -> str:
    """Link strategies, where a row of a table begins with one, and overlays to their pages."""
    for strategy in STRATEGIES:
        name, page = f"`{strategy.__name__}`", f"{folder}{overlay_name(strategy)}.rst"
        text = text.replace(f"\n| {name} |", f"\n| [{name}]({page}) |")
        for overlay in overlays_of(strategy):
            text = re.sub(rf"(?<!\[)`gradient/{overlay.name}`", rf"[\g<0>]({page})", text)
    return text


def _page(strategy: type) -> Iterator[str]:
    docstring = Docstring.of(strategy)
    overlays = overlays_of(strategy)
    yield title(strategy.__name__)
    yield f"{docstring.text}\n"
    yield title("What it does to the gradients", "-")
    yield f"{_CAPTION}\n"
    for overlay in overlays:
        yield from _picture(overlay.name, _ALT, f"``{overlay.name}``. {overlay.idea}")
        if overlay.name in learning():
            changed = CHANGED.get(overlay.name, {})
            given = "".join(f", with ``{name.rpartition('.')[2]}={value}``" for name, value in changed.items())
            caption = f"``{overlay.name}``{given}. {_OF_SPIKES}"
            yield from _picture(f"{overlay.name}{SPIKES}", _ALT_OF_SPIKES, caption)
    yield title("When to use it", "-")
    for overlay in overlays:
        yield f"``{overlay.name}``\n   {_with_reports(overlay.advice)}\n"
    yield from _evidence.table(overlays)
    yield title("On the command line", "-")
    for overlay in overlays:
        file = _relative(overlay.file)
        yield f".. literalinclude:: {file}\n   :language: yaml\n   :caption: {overlay.file.relative_to(ROOT)}\n"
    yield "::\n"
    for overlay in overlays:
        yield f"   sparsegrad fit --config quickstart --config gradient/{overlay.name}"
    yield ""
    for heading, name in (("In Python", "Example"), ("Deviations", "Note"), ("Sources", "References")):
        if name in docstring.sections:
            yield f"{title(heading, '-')}\n{docstring.sections[name]}\n"
    yield title("Parameters", "-")
    yield f".. autoclass:: lightning_sparsegrad.{strategy.__name__}\n{inheritance(strategy)}"
    yield from _reference(strategy)


def _picture(name: str, alt: str, caption: str) -> Iterator[str]:
    file, overlay = PICTURES / f"{name}.png", name.removesuffix(SPIKES)
    if file.exists():
        yield f".. figure:: {_relative(file)}\n   :alt: {alt.format(overlay)}\n"
        yield f"   {caption}\n"
    else:
        yield f"No picture ``{name}`` has been drawn: ``python -m docs.draw {overlay}`` draws it.\n"


def _with_reports(advice: str) -> str:
    return _OF_STUDIES.sub(lambda names: f"({_evidence.links(names[1].split(', '))})", advice)


def _reference(strategy: type) -> Iterator[str]:
    golden = ROOT / "tests" / "transforms" / "golden" / f"{overlay_name(strategy)}.py"
    if golden.exists():
        yield title("Reference it is tested against", "-")
        yield "Slow and obvious: Python floats, one entry after the other.\n"
        yield f".. literalinclude:: {_relative(golden)}\n   :language: python\n"


def _relative(file: Path) -> str:
    return os.path.relpath(file, ROOT / "docs" / "strategies")
