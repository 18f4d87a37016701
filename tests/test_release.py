"""A release: one version everywhere, and the lower bounds that are tested are those that are declared."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import lightning_sparsegrad
from tests.cases import cases
from tests.lowest import PYPROJECT, lowest

ROOT = PYPROJECT.parent
PROJECT = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def project(*dependencies: str, **extras: list[str]) -> dict[str, object]:
    return {"name": "mine", "dependencies": [*dependencies], "optional-dependencies": extras}


def test_the_version_is_one() -> None:
    heading = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert heading is not None
    assert heading.groups() == (citation["version"], str(citation["date-released"]))
    assert lightning_sparsegrad.__version__ == citation["version"]


def test_lower_bounds_are_read_with_extras() -> None:
    floors = lowest(project("torch>=2.6,<3", "rich[all]>=13", "x==1.0.2", more=["mine[other]", "y>=3"]))
    assert floors == {"torch": "2.6", "rich": "13", "x": "1.0.2", "y": "3"}


@cases("dependencies", [["torch"], ["torch<3"], ["x>=1", "x>=2"], ["x>=1; python_version<'3.12'"]])
def test_what_has_no_one_lower_bound_is_refused(dependencies: list[str]) -> None:
    with pytest.raises(ValueError, match=r"lower bound"):
        lowest(project(*dependencies))


def test_every_dependency_has_a_lower_bound_below_what_the_tests_run_on() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {_plain(name): version for name, version in pinned.items()}
    for name, floor in lowest(PROJECT).items():
        assert _numbers(floor) <= _numbers(pinned[_plain(name)]), name


@cases("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_little_and_names_what_there_is(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    workflow_of = yaml.safe_load(text)
    assert workflow_of["permissions"] in ({}, {"contents": "read"})
    pythons = set(re.findall(r'"(3\.\d+)"', text))
    assert pythons <= {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each}
    for extras in re.findall(r'-e "\.\[([\w,]+)\]"', text):
        assert set(extras.split(",")) <= {*PROJECT["optional-dependencies"]}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
