"""Configs of 0.1 stand for the objects that they stood for."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from jsonargparse._util import get_import_path

import lightning_sparsegrad
from tests.cases import cases
from tests.compatibility import configs
from tests.compatibility.record import read

PATHS, OBJECTS, COMMAND = read("paths"), read("strategies"), read("command")
NAMES = {own.rpartition(".")[2]: own for own in PATHS}
FORMS = ("short", "package", "definition")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@cases("own", PATHS)
def test_a_class_is_where_it_was(own: str) -> None:
    (actual,) = {configs.at(path) for path in PATHS[own]}
    assert actual.__name__ == own.rpartition(".")[2]


@cases("form", FORMS)
@cases("path", configs.STRATEGIES, ids=lambda path: path.stem)
def test_a_strategy_is_built_as_it_was(path: Path, form: str) -> None:
    text = _text(path, form)
    assert (text == path.read_text()) == (form == "short")
    _assert_holds(configs.strategy(text), OBJECTS[path.stem])


@cases("form", FORMS)
def test_a_command_is_parsed_as_it_was(form: str, tmp_path: Path) -> None:
    _assert_holds(configs.command(_text(configs.COMMAND, form), tmp_path), COMMAND)


def _text(path: Path, form: str) -> str:
    return dict(zip(FORMS, configs.forms(path.read_text(), NAMES), strict=True))[form]


def _assert_holds(actual: Any, recorded: Any, where: str = "") -> None:
    """Assert that a config says all that was recorded; arguments that came after 0.1 may have joined."""
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            assert key in actual, where
            _assert_holds(actual[key], value, f"{where}.{key}")
    elif isinstance(recorded, list):
        assert len(actual) == len(recorded), where
        for index, value in enumerate(recorded):
            _assert_holds(actual[index], value, f"{where}[{index}]")
    else:
        assert actual == recorded, where


@cases("name", ["LinearDecay", "TokenizedDataModule", "TransformerTask"])
def test_what_is_written_into_configs_of_runs_keeps_its_path(name: str) -> None:
    """A study knows a run that has ended by the digest of its config: another path would repeat it."""
    package = "data" if name == "TokenizedDataModule" else "modules"
    kind = getattr(import_module(f"lightning_sparsegrad.{package}"), name)
    assert get_import_path(kind) == f"lightning_sparsegrad.{package}.{name}"


@cases("name", ["GradDrop", "Linear", "SequenceClassification", "TextDataModule", "ExactResume"])
def test_what_the_package_exports_is_written_with_its_path(name: str) -> None:
    assert get_import_path(getattr(lightning_sparsegrad, name)) == f"lightning_sparsegrad.{name}"
