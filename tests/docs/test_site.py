"""The site as it is built, and the check that it is held to."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs.check import count_links, faults
from tests.cases import cases
from tests.strategies import OVERLAYS, ROOT, STRATEGIES, overlay_name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "doctrees")]
    done = subprocess.run([*build, "docs", str(folder / "html")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.long
def test_the_site_is_built_without_a_warning_and_nothing_is_wrong_with_it(site: Path) -> None:
    assert list(faults(site)) == []
    assert count_links(site) > 1000
    for strategy in STRATEGIES:
        page = (site / "strategies" / f"{overlay_name(strategy)}.html").read_text()
        assert f'id="lightning_sparsegrad.{strategy.__name__}"' in page
    pages = "".join(file.read_text() for file in (site / "strategies").glob("*.html"))
    for name in OVERLAYS:
        assert f"{name}.yaml" in pages
    assert 'class="math' in pages
    assert (site / "_static" / "tex-svg-full.js").is_file()


@cases(
    ("text", "fault"),
    [
        pytest.param('<a href="gone.html">x</a>', "the link `gone.html` leads nowhere", id="link"),
        pytest.param('<a href="#gone">x</a>', "the link `#gone` leads nowhere", id="anchor"),
        pytest.param(
            '<a href="other.html#gone">x</a>', "the link `other.html#gone` leads nowhere", id="anchor of another page"
        ),
        pytest.param('<script src="https://cdn.example.org/x.js"></script>', "is not in the site", id="script"),
        pytest.param(
            '<link rel="stylesheet" href="https://fonts.example.org/x.css">', "is not in the site", id="style"
        ),
        pytest.param('<img src="//example.org/x.png">', "is not in the site", id="picture"),
        pytest.param('<img src="gone.png">', "is not in the site", id="picture that is missing"),
        pytest.param(r"<p>where \frac{1}{2} is</p>", "was left as it is written", id="formula"),
        pytest.param("<p>the `x` of it</p>", "was left as it is written", id="backticks"),
        pytest.param("<p>the :math: of it</p>", "was left as it is written", id="role"),
    ],
)
def test_a_fault_is_named(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<html><body>{text}</body></html>")
    (tmp_path / "other.html").write_text("<html></html>")
    (message,) = faults(tmp_path)
    assert message.startswith("index.html: ")
    assert fault in message


def test_what_is_well_has_no_fault(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<a href="https://example.org/x">x</a><a href="other.html#there">x</a><a href="#here">x</a><p id="here">'
        r'<span class="math">\(\frac{1}{2}\)</span><pre>\frac{1}{2}</pre></p><img src="x.png">'
    )
    (tmp_path / "other.html").write_text('<p id="there"></p>')
    (tmp_path / "x.png").touch()
    assert list(faults(tmp_path)) == []
