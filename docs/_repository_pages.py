"""Pages that are files of the repository: reports of studies, benchmarks, changelog, contributing, security."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from tests.strategies import ROOT

_STUDIES = "benchmarks/studies"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>(?![a-z]+:|#)[^)#\s]+)(?P<anchor>#[\w-]*)?\)")


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page."""
    sources = dict(_sources())
    for source, page in sources.items():
        text = _LINK.sub(partial(_relinked, source=source, page=page, sources=sources), (ROOT / source).read_text())
        if source.endswith("report.md"):
            heading, _, rest = text.removeprefix("# ").partition("\n")
            text = f"# {PurePosixPath(page).stem}\n\n{heading}.\n{rest}"
        yield page, f"{text}{_contents(sources)}" if page == "studies/index.md" else text


def linked_guide(name: str, text: str) -> str:
    """Return the text of a guide, whose links to files of the repository lead to their pages."""
    sources = dict(_sources())

    def relink(link: re.Match[str]) -> str:
        file = os.path.normpath(Path("docs", name).parent / link["target"])
        return _relinked(link, f"docs/{name}", name, sources) if file in sources else link[0]

    return _LINK.sub(relink, text)


def _sources() -> Iterator[tuple[str, str]]:
    for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"):
        if (ROOT / f"{name}.md").exists():
            yield f"{name}.md", f"project/{name.lower()}.md"
    yield "benchmarks/README.md", "project/benchmarks.md"
    yield f"{_STUDIES}/README.md", "studies/index.md"
    for report in sorted((ROOT / _STUDIES / "results").glob("*/report.md")):
        yield report.relative_to(ROOT).as_posix(), f"studies/{report.parent.name}.md"


def _contents(sources: dict[str, str]) -> str:
    reports = "\n".join(PurePosixPath(page).stem for source, page in sources.items() if source.endswith("report.md"))
    return f"\n```{{toctree}}\n:hidden:\n\n{reports}\n```\n"


def _relinked(link: re.Match[str], source: str, page: str, sources: dict[str, str]) -> str:
    """Return a link of a file of the repository as its page needs it: to a page, to a picture, or its text alone."""
    file = Path(os.path.normpath(ROOT / Path(source).parent / link["target"])).relative_to(ROOT).as_posix()
    if link["image"]:
        return f"![{link['text']}]({os.path.relpath(file, Path('docs', page).parent)})"
    if file in sources:
        return f"[{link['text']}]({os.path.relpath(sources[file], Path(page).parent)}{link['anchor'] or ''})"
    return link["text"] if link["text"].startswith("`") else f"`{file}`"
