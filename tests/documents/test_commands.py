import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sparsegrad.studies._lightning import ConfigReader
from lightning_sparsegrad.studies._runs import make_runs
from lightning_sparsegrad.studies._study import Study
from tests.cases import cases
from tests.documents import DOCUMENTS, GUIDES, README, blocks, commands, files

OTHERS = (  # which need a checkpoint, a network or hours
    *("sparsegrad fit --ckpt_path ", "sparsegrad test ", "sparsegrad predict ", "sparsegrad study "),
    *("python -m benchmarks.studies ", "pip install ", "apt-get install ", "pytest", "export OMP_"),
)

_FIT = " (?:fit|explain) (?=--config)"


def parts(document: Path) -> Iterator[str]:
    """Yield the commands of a document, those of one line apart."""
    for line in commands(document):
        yield from (command.removesuffix("&").strip() for command in line.split(" && "))


def understood(arguments: list[str]) -> dict[str, Any]:
    resolved: dict[str, Any] = ConfigReader(args=arguments).resolved
    return resolved


def fits(document: Path) -> list[str]:
    """Return the commands that fit anew, or explain it, whose arguments can be read without a checkpoint."""
    return [command for command in parts(document) if re.search(_FIT, command)]


def check_fits(document: Path, folder: Path, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each `fit` of a document read its arguments, beside the files that the document shows."""
    for name, text in files(document).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for command in fits(document):
        with subtests.test(command):
            arguments = re.split(_FIT, command.removesuffix(" --print_config"))[1]
            assert understood(["fit", *shlex.split(arguments)])["model"]["class_path"]


def test_the_fits_of_the_readme_are_understood(
    tmp_path: Path, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_fits(README, tmp_path, subtests, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("document", [each for each in GUIDES if fits(each)], ids=lambda each: each.name)
def test_the_fits_of_a_guide_are_understood(
    document: Path, tmp_path: Path, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_fits(document, tmp_path, subtests, monkeypatch)


def test_no_command_goes_unread() -> None:
    for document in DOCUMENTS:
        for command in parts(document):
            assert command in fits(document) or command.startswith(OTHERS), command


CONFIGS = [(document, block) for document in DOCUMENTS for block in blocks(document, "yaml")]
STUDIES = [block for _, block in CONFIGS if re.search(r"^arms:", block, flags=re.MULTILINE)]
FITS = [(document, block) for document, block in CONFIGS if block not in STUDIES]


@pytest.mark.long
@cases("document, block", FITS, ids=[f"{document.name}{number}" for number, (document, _) in enumerate(FITS)])
def test_a_config_is_understood(document: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(block)
    whole = "class_path" in (yaml.safe_load(block).get("model") or {})
    base = [] if whole else ["--config=quickstart"]
    assert understood(["fit", *base, f"--config={config}"])["model"]["class_path"]


@pytest.mark.long
@cases("block", STUDIES)
def test_a_study_makes_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study(**yaml.safe_load(block))
    seeds = study.seeds if isinstance(study.seeds, int) else len(study.seeds)
    assert len(make_runs(study, tmp_path)) == len(study.arms) * len(list(study.settings())) * seeds
