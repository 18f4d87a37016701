import re
from pathlib import Path

from tests.cases import cases
from tests.documents import DOCUMENTS, prose
from tests.strategies import ROOT

GENERATED = [ROOT / "docs" / name for name in ("api", "strategies")]  # written when the site is built
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cases("document", DOCUMENTS, ids=lambda each: each.name)
def test_the_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if link.startswith("https://") or target.parent in GENERATED:
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
