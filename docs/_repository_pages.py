"""Pages that are files of the repository: the README, examples, reports of studies, benchmarks, changelog and so on."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from docs._strategy_pages import with_links
from tests.strategies import ROOT

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_STUDIES = "benchmarks/studies"
_EXAMPLES = [path.stem for path in sorted((ROOT / "examples").glob("*.py"))]
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>(?![a-z]+:|#)[^)#\s]+)(?P<anchor>#[\w-]*)?\)")


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page."""
    sources = dict(_sources())
    yield "examples/index.md", f"# Examples\n\nOne page of code for each training loop.\n{_toctree(_EXAMPLES)}"
    for source, page in sources.items():
        if source.endswith(".py"):
            yield page, f"# {PurePosixPath(source).name}\n\n```python\n{(ROOT / source).read_text()}```\n"
            continue
        text = _LINK.sub(partial(_relinked, source=source, page=page, sources=sources), (ROOT / source).read_text())
        if source.endswith("report.md"):
            heading, _, rest = text.removeprefix("# ").partition("\n")
            text = f"# {PurePosixPath(page).stem}\n\n{heading}.\n{rest}"
        if page == "index.md":
            yield "_readme.md", with_links(text, "strategies/")  # which it includes
        else:
            yield page, f"{text}{_contents(sources)}" if page == "studies/index.md" else text


def relink(app: "Sphinx", page: str, content: list[str]) -> None:  # noqa: ARG001  # what Sphinx passes
    """Have a guide link to pages where it links to files of the repository, as it does for those who read it there."""
    if page.startswith("guides/"):
        source, sources = f"docs/{page}.md", dict(_sources())
        page += ".md"
        relinked = partial(_relinked, source=source, page=page, sources=sources)
        content[0] = with_links(_LINK.sub(relinked, content[0]), "../strategies/")


def _sources() -> Iterator[tuple[str, str]]:
    yield "README.md", "index.md"
    for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"):
        if (ROOT / f"{name}.md").exists():
            yield f"{name}.md", f"project/{name.lower()}.md"
    for name in _EXAMPLES:
        yield f"examples/{name}.py", f"examples/{name}.md"
    yield "benchmarks/README.md", "project/benchmarks.md"
    yield f"{_STUDIES}/README.md", "studies/index.md"
    for report in sorted((ROOT / _STUDIES / "results").glob("*/report.md")):
        yield report.relative_to(ROOT).as_posix(), f"studies/{report.parent.name}.md"


def _contents(sources: dict[str, str]) -> str:
    reports = [PurePosixPath(page).stem for source, page in sources.items() if source.endswith("report.md")]
    return _toctree(reports, ":hidden:\n")


def _toctree(names: list[str], options: str = "") -> str:
    entries = "\n".join(names)
    return f"\n```{{toctree}}\n{options}\n{entries}\n```\n"


def _relinked(link: re.Match[str], source: str, page: str, sources: dict[str, str]) -> str:
    """Return a link of a file of the repository as its page needs it: to a page, to a picture, or its text alone."""
    file = Path(os.path.normpath(ROOT / Path(source).parent / link["target"])).relative_to(ROOT).as_posix()
    folder = Path("docs", page).parent
    if file in sources:
        file = f"docs/{sources[file]}"
    if link["image"] or file.startswith("docs/"):
        return f"{link['image']}[{link['text']}]({os.path.relpath(file, folder)}{link['anchor'] or ''})"
    return link["text"] if link["text"].startswith("`") else f"`{file}`"
