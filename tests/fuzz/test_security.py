"""Tests of the statements in SECURITY.md, and that each of them has a test."""

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]  # ships no types
import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD, Optimizer

import lightning_sparsegrad
from tests.fuzz.conftest import Run
from tests.fuzz.material import spec, to_yaml

ROOT = Path(__file__).parents[2]
TEXT = " ".join((ROOT / "SECURITY.md").read_text().split())
BULLETS = re.findall(r"^- (.*?)(?=^- |\n\n)", (ROOT / "SECURITY.md").read_text(), re.MULTILINE | re.DOTALL)
HERE = "tests.fuzz.test_security"
SAMPLE = "tests.fuzz.test_sample_of_strangers"
STRANGERS, TRAPS = "tests.fuzz.test_strangers", "tests.fuzz.test_traps"
DELTA = "tests.export.test_delta"
OPEN = "no test can show it"
# a phrase of each statement, and the test that shows it
SHOWN = {
    "ends the command with one line and status 2": f"{SAMPLE}.test_strangers_run_no_code_and_end_in_one_line",
    "are written out": "tests.untrusted.test_terminal.test_controls_are_written_out",
    "import modules on your Python path": f"{TRAPS}.test_a_users_own_module_is_imported",
    "of the type that a parameter expects": f"{HERE}.test_a_config_has_callbacks_made",
    "annotated to return the type that a parameter expects": f"{HERE}.test_a_config_has_functions_called",
    "pass a function, without arguments": f"{HERE}.test_a_config_has_functions_called",
    "**of your own modules** for a parameter": f"{HERE}.test_a_config_has_functions_called",
    "files to read and folders to write into": f"{HERE}.test_a_config_names_where_to_write_and_what_to_read",
    "models and data sets from the hub": OPEN,
    "any amount of memory, time and disk": OPEN,
    "call anything else": f"{TRAPS}.test_a_trap_springs_without_the_guards_and_not_with_them",
    "import modules of Python's standard library": f"{TRAPS}.test_a_name_imports_no_module_that_cannot_hold_it",
    "create objects with YAML tags": f"{STRANGERS}.test_no_door_takes_a_tag_of_python",
    "no option allows it": f"{STRANGERS}.test_no_option_lets_it_run",
    "contains the config of its run": f"{HERE}.test_a_checkpoint_says_what_a_config_says",
    "under whatever key": f"{TRAPS}.test_nor_do_the_hyperparameters_of_one",
    "from its own folder or below": f"{TRAPS}.test_a_checkpoint_imports_nothing_that_lies_beside_it",
    "other than tensors and plain values": f"{STRANGERS}.test_a_checkpoint_runs_no_code",
    "by accident without notice": "tests.files.test_checksums.test_no_flipped_bit_changes_what_is_loaded",
    "be compressed": "tests.files.test_checksums.test_what_is_no_archive_as_written_is_refused",
    "lets a checkpoint run any code": f"{HERE}.test_a_user_can_let_a_checkpoint_run_code_in_python",
    "It cannot run Python files": f"{STRANGERS}.test_a_model_runs_no_code",
    "no prompt asks for it": f"{HERE}.test_everything_is_loaded_without_its_code",
    "it holds tensors and text": f"{DELTA}_file.test_what_is_no_delta_runs_no_code",
    "whose checksums it names": f"{DELTA}.test_another_base_is_refused_and_left_as_it_is",
    "that the model does not have": f"{DELTA}_file.test_a_forged_file_is_refused_before_anything_changes",
    "loading scripts of data sets are not run": f"{STRANGERS}.test_a_folder_of_data_runs_no_code",
}


def test_each_sentence_has_a_test() -> None:
    assert [sentence for sentence in SHOWN if sentence not in TEXT] == []
    assert len(BULLETS) > 15
    assert [bullet for bullet in BULLETS if not any(shown in " ".join(bullet.split()) for shown in SHOWN)] == []
    for test in set(SHOWN.values()) - {OPEN}:
        module, _, name = test.rpartition(".")
        assert callable(getattr(import_module(module), name))


# ------------------------------------------------------------ configs
called: list[Any] = []


class Mine(Callback):
    def __init__(self, word: str = "") -> None:
        called.append(word)


def slow(parameters: Any, lr: float = 0.1) -> Optimizer:
    called.append(lr)
    return SGD(parameters, lr)


def factor(step: int) -> float:
    called.append(step)
    return 1.0


class Factor:
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: int) -> float:
        called.append(self.value)
        return self.value


def test_a_config_has_callbacks_made(run: Run) -> None:
    called.clear()
    overlay = to_yaml({"trainer": {"callbacks": [spec(f"{HERE}.Mine", word="made")]}})
    assert run("fit", "--config=task.yaml", "--config=o.yaml", o=overlay).verdict == "accepted"
    assert called == ["made"]


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("optimizer", spec(f"{HERE}.slow", lr=0.25), 0.25),
        pytest.param("lr_scheduler", spec("LambdaLR", lr_lambda=f"{HERE}.factor"), 0, marks=pytest.mark.long),
        ("lr_scheduler", spec("LambdaLR", lr_lambda=spec(f"{HERE}.Factor", value=0.5)), 0.5),
    ],
)
def test_a_config_has_functions_called(argument: str, value: Any, expected: float, run: Run) -> None:
    called.clear()
    overlay = to_yaml({"model": {"init_args": {argument: value}}})
    assert run("fit", "--config=task.yaml", "--config=o.yaml", o=overlay).verdict == "accepted"
    assert called[0] == expected


def test_a_config_names_where_to_write_and_what_to_read(run: Run, tmp_path: Path) -> None:
    optimizer = to_yaml(spec("torch.optim.SGD", lr=0.125))
    fsspec.filesystem("memory").pipe("/strangers.yaml", optimizer)
    logger = spec("CSVLogger", save_dir=str(tmp_path / "elsewhere"))
    overlay = {"trainer": {"logger": logger}, "model": {"init_args": {"optimizer": "memory://strangers.yaml"}}}
    assert run("fit", "--config=task.yaml", "--config=o.yaml", o=to_yaml(overlay)).verdict == "accepted"
    (written,) = (tmp_path / "elsewhere").rglob("config.yaml")
    assert "lr: 0.125" in written.read_text()


def test_a_checkpoint_says_what_a_config_says(run: Run, model: str, tmp_path: Path) -> None:
    arguments = {"model_name_or_path": model, "num_labels": 2, "gradient_transform": spec("Identity")}
    config = {
        "model": spec("lightning_sparsegrad.SequenceClassification", **arguments),
        "trainer": {"callbacks": [spec(f"{HERE}.Mine", word="stored")]},
    }
    torch.save({"state_dict": {}, "lightning_sparsegrad_config": config}, tmp_path / "x.ckpt")
    called.clear()
    data = {"data_files": {"train": "train.csv"}, "text_columns": "text", "label_column": "label"}
    overlay = to_yaml({"data": spec("TextDataModule", **data)})
    run("fit", "--config=o.yaml", f"--ckpt_path={tmp_path}/x.ckpt", "--trainer.accelerator=cpu", o=overlay)
    assert called == ["stored"]


# ------------------------------------------------------------ loaders
class Code:
    def __reduce__(self) -> Any:
        return factor, (-1,)


def test_a_user_can_let_a_checkpoint_run_code_in_python(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "code": Code()}, tmp_path / "x.ckpt")
    called.clear()
    kind = lightning_sparsegrad.SequenceClassification
    with pytest.raises(Exception, match="Weights only load failed"):
        kind.load_from_checkpoint(tmp_path / "x.ckpt")
    assert called == []
    with pytest.raises(Exception, match="pytorch-lightning_version"):  # which it lacks
        kind.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    assert called == [-1]


def test_everything_is_loaded_without_its_code() -> None:
    """Every call of a loader passes the options, without which it asks on the terminal."""
    loads = []
    for file in (ROOT / "lightning_sparsegrad").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner, name = ast.unparse(node.func.value).lower(), node.func.attr
                if name in ("from_pretrained", "from_config") and "auto" in owner:
                    loads.append(ast.unparse(node))
    assert len(loads) >= 7
    adapted = [load for load in loads if "STRANGERS" not in load]
    assert [load for load in adapted if "output_loading_info" not in load] == []  # its options have it
