"""A config or checkpoint cannot call names of the wrong type, which jsonargparse and Lightning alone would call."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch

from lightning_sparsegrad import SequenceClassification, SparseGradCLI
from tests.fuzz import traps
from tests.fuzz.conftest import Run
from tests.fuzz.material import spec

LONG = pytest.mark.long

# jsonargparse says so once in a process, whichever test is the first
pytestmark = pytest.mark.filterwarnings(r"ignore:(?s)\s+Instantiating a subclass spec")


@pytest.fixture(autouse=True)
def waited_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for the programs that traps start in this process."""
    started: list[Popen[Any]] = []
    start = Popen.__init__

    def start_and_keep(self: Popen[Any], *args: Any, **kwargs: Any) -> None:
        started.append(self)
        start(self, *args, **kwargs)

    monkeypatch.setattr(Popen, "__init__", start_and_keep)
    yield
    for program in started:
        if hasattr(program, "pid"):  # else it could not be started
            program.wait()


def test_every_place_and_every_name_is_in_the_sample() -> None:
    positions, names = zip(*traps.sample(), strict=True)
    assert set(positions) == set(traps.POSITIONS)
    assert set(names) == set(traps.NAMED)


def tried() -> list[tuple[str, str]]:
    """Return the sample and every third of the others; all, if `SPARSEGRAD_STRANGERS` is in the environment."""
    sample = list(dict.fromkeys([*traps.FEW, *traps.sample()]))
    others = [each for each in traps.TRAPS if each not in sample]
    return [*sample, *(others if "SPARSEGRAD_STRANGERS" in os.environ else others[::3])]


def configure(cli: SparseGradCLI, _: str) -> None:
    """Instantiate the objects of a fit without running it."""
    with suppress(Exception):  # what a trap returns is of no use
        cli.model.configure_optimizers()


@pytest.mark.parametrize(
    ("where", "name"),
    [pytest.param(*each, marks=() if each in traps.FEW else pytest.mark.long) for each in tried()],
)
def test_a_trap_springs_without_the_guards_and_not_with_them(
    where: str, name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = tmp_path / "run", traps.overlay(where, name)
    traps.set_up(folder)
    assert run("fit", "--config=task.yaml", "--config=o.yaml", o=text).verdict == "refused"
    assert not traps.has_sprung(folder)

    traps.take_guards_away(monkeypatch)
    monkeypatch.setattr(SparseGradCLI, "_run_subcommand", configure)
    ended = run("fit", "--config=task.yaml", "--config=o.yaml", o=text)
    assert traps.has_sprung(folder, patience=5.0), ended


# ------------------------------------------------------------ checkpoints
LIGHTNING = {"pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": 0, "loops": {}, "state_dict": {}}


def arguments(model: str, **others: Any) -> dict[str, Any]:
    return {"model_name_or_path": model, "num_labels": 2, "gradient_transform": spec("Identity"), **others}


@pytest.mark.parametrize(
    "name",
    ["os.system", *(pytest.param(each, marks=LONG) for each in ("a function of another type", "a compiler of torch"))],
)
def test_a_checkpoint_calls_as_little(
    name: str, run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    traps.set_up(folder)
    task = spec("lightning_sparsegrad.SequenceClassification", **arguments(model, optimizer=traps.NAMED[name]))
    torch.save({"state_dict": {}, "lightning_sparsegrad_config": {"model": task}}, folder / "x.ckpt")
    command = ("test", "--ckpt_path=x.ckpt", "--data=TextDataModule", '--data.data_files={"test": "train.csv"}')
    assert run(*command, "--data.text_columns=text").verdict == "refused"
    assert not traps.has_sprung(folder)

    traps.take_guards_away(monkeypatch)
    ended = run(*command, "--data.text_columns=text")
    assert traps.has_sprung(folder), ended


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("a function of another type", "optimizer"),
        ("os.system", "inside"),
        pytest.param("os.system", "optimizer", marks=LONG),
        pytest.param("a function of another type", "inside", marks=LONG),
    ],
)
def test_nor_do_the_hyperparameters_of_one(
    name: str, where: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = traps.NAMED[name]
    monkeypatch.chdir(tmp_path)
    traps.set_up(tmp_path)
    optimizer = value if where == "optimizer" else spec("transformers.Adafactor", eps=value)
    stored = {"_instantiator": "lightning.pytorch.cli.instantiate_module", **arguments(model, optimizer=optimizer)}
    torch.save({**LIGHTNING, "hyper_parameters": stored}, tmp_path / "x.ckpt")
    with pytest.raises(Exception, match=r"is not called|is not allowed"):
        SequenceClassification.load_from_checkpoint(tmp_path / "x.ckpt")
    assert not traps.has_sprung(tmp_path)

    traps.take_guards_away(monkeypatch)
    with suppress(Exception):  # what the trap returns is of no use, and the checkpoint has no weights
        SequenceClassification.load_from_checkpoint(tmp_path / "x.ckpt", strict=False).configure_optimizers()
    assert traps.has_sprung(tmp_path)


# ------------------------------------------------------------ imports
IMPORTED = {
    "this.s": "this",
    "__phello__.main": "__phello__",
    "planted.__main__.Model": "planted.__main__",
    "planted.script.Model": "planted.script",  # which has none
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package among the user's own, and a module in the folder of a checkpoint, which is searched as well."""
    package = tmp_path / "own" / "planted"
    package.mkdir(parents=True)
    for name in ("__init__", "__main__", "script"):
        (package / f"{name}.py").write_text("class Model: pass\n" if name == "__main__" else "")
    (package / "good.py").write_text("from lightning_sparsegrad import ResultsTable as Table\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "beside.py").write_text("from lightning_sparsegrad import SequenceClassification as Model\n")
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.syspath_prepend(tmp_path / "run")
    for name in ("beside", *IMPORTED.values(), "planted", "planted.good"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=LONG if each in ("__phello__.main", "planted.script.Model") else ())
        for each in IMPORTED
    ],
)
@pytest.mark.usefixtures("planted")
def test_a_name_imports_no_module_that_cannot_hold_it(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    module = IMPORTED[name]
    assert run("fit", "--config=task.yaml", f"--trainer.callbacks={name}").verdict == "refused"
    assert module not in sys.modules
    traps.take_guards_away(monkeypatch)
    assert run("fit", "--config=task.yaml", f"--trainer.callbacks={name}").verdict == "refused"
    assert module in sys.modules
    del sys.modules[module]


@pytest.mark.usefixtures("planted")
def test_a_users_own_module_is_imported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparseGradCLI, "_run_subcommand", lambda *_: None)
    assert run("fit", "--config=task.yaml", "--trainer.callbacks=planted.good.Table").verdict == "accepted"
    assert "planted.good" in sys.modules


def test_a_checkpoint_imports_nothing_that_lies_beside_it(
    planted: Path, run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model": spec("beside.Model", **arguments(model))}
    torch.save({"state_dict": {}, "lightning_sparsegrad_config": config}, planted / "x.ckpt")
    command = ("fit", "--ckpt_path=x.ckpt", "--config=data.yaml")
    task = b"data:\n  class_path: TextDataModule\n  init_args: {data_files: {train: train.csv}, text_columns: text}\n"
    monkeypatch.setattr(SparseGradCLI, "_run_subcommand", lambda *_: None)
    assert run(*command, data=task).verdict == "refused"
    assert "beside" not in sys.modules
    assert run(*command, "--model=beside.Model", data=task).verdict == "accepted"
    assert "beside" in sys.modules
