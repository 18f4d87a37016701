"""A sample of the bad input of `python -m tests.fuzz`, and tests of its judge."""

import random
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from shutil import rmtree

import pytest

from tests.fuzz.cases import Case, CaseResult, try_in
from tests.fuzz.configs import Configs
from tests.fuzz.conftest import Run
from tests.fuzz.data import DataFiles
from tests.fuzz.material import checkpoints, strategy, task, to_yaml
from tests.fuzz.recipes import RECIPES, parameters_of
from tests.fuzz.tasks import Tasks
from tests.hub import tiny_encoder

SEED = 0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def configs(model: str) -> Configs:
    return Configs(model, checkpoints(), SEED)


@pytest.fixture(scope="module")
def data(model: str, shared_folder: Path) -> DataFiles:
    (shared_folder / "good").mkdir()
    return DataFiles(model, shared_folder / "good", SEED)


@pytest.fixture(scope="module")
def tasks(shared_folder: Path) -> Tasks:
    return Tasks(tiny_encoder(shared_folder / "encoder", layers=1), SEED)


def failures(cases: Iterable[Case], folder: Path) -> list[tuple[str, CaseResult]]:
    failed = []
    for case in cases:
        (folder / "run").mkdir()
        result = try_in(folder / "run", case)
        rmtree(folder / "run")
        if result.failed:
            failed.append((case.name, result))
    return failed


def sample(cases: Iterable[Case], count: int) -> list[Case]:
    return random.Random(SEED).sample(list(cases), count)  # noqa: S311  # no secret


@pytest.mark.long
def test_bad_configs_and_flags_end_in_one_line(configs: Configs, tmp_path: Path) -> None:
    assert failures(sample(configs.systematic(), 20), tmp_path) == []
    assert failures(islice(configs.at_random(), 8), tmp_path) == []


@pytest.mark.long
def test_bad_data_files_end_in_one_line(data: DataFiles, tmp_path: Path) -> None:
    assert failures(sample(data.systematic(), 8), tmp_path) == []
    assert failures(islice(data.at_random(), 4), tmp_path) == []


def test_every_data_module_task_and_callback_of_the_package_is_drawn(tasks: Tasks) -> None:
    assert set(tasks.data) == set(RECIPES), "a data module that is new needs a recipe"
    assert set(tasks.tasks) == {recipe.task for recipe in RECIPES.values()}
    names = {case.name.partition(" = ")[0] for case in tasks.systematic()}
    kinds = {**tasks.data, **tasks.tasks, **tasks.callbacks}
    assert names == {f"{name}.{parameter}" for name, kind in kinds.items() for parameter in parameters_of(kind)}
    assert {"TextDataModule.num_workers", "XglueDataModule.languages", "PointwiseRanking.dtype"} < names


@pytest.mark.long
def test_a_good_fit_on_every_data_module_is_accepted(tasks: Tasks, tmp_path: Path) -> None:
    by_module = {case.name.rpartition(" ")[0]: case for case in tasks.good()}
    assert failures(by_module.values(), tmp_path) == []


@pytest.mark.long
def test_bad_arguments_of_data_and_tasks_end_in_one_line(tasks: Tasks, tmp_path: Path) -> None:
    assert failures(sample(tasks.systematic(), 8), tmp_path) == []
    assert failures(islice(tasks.at_random(), 8), tmp_path) == []


@pytest.mark.long
def test_good_input_is_accepted(run: Run) -> None:
    assert run("fit", "--config=task.yaml") == CaseResult("accepted")


@pytest.mark.long
def test_a_traceback_fails(run: Run) -> None:
    reader = ("--model=tests.command_line.Reader", "--data=tests.command_line.Labelled")
    drop = ("--model.gradient_transform=HeadOnly", "--model.fault=bug")
    assert run("fit", *reader, *drop, "--trainer.accelerator=cpu").verdict.startswith("traceback of ValueError: ")


@pytest.mark.long
def test_a_line_that_does_not_name_the_mistake_fails(model: str, tmp_path: Path) -> None:
    files = {"task.yaml": to_yaml(task(model))}
    result = try_in(tmp_path, Case("", ("fit", "--config=task.yaml", "--modle=3"), files, says=("something else",)))
    assert result.verdict == "it names none of ('something else',)"


@pytest.mark.parametrize(
    "spoil", ["half", *(pytest.param(each, marks=pytest.mark.long) for each in ("empty", "header", "fields"))]
)
def test_a_mended_file_is_read_although_a_bad_one_had_its_name(spoil: str, data: DataFiles, tmp_path: Path) -> None:
    good = b"text,label\n" + b"a good day,1\nthe bad movie,0\n" * 4
    bad = {"empty": b"", "half": good[:10], "header": good[:11], "fields": good + b"rain,x,1\n"}[spoil]
    assert try_in(tmp_path, data.case("bad", "csv", bad)).verdict == "refused"
    assert try_in(tmp_path, data.case("mended", "csv", good)) == CaseResult("accepted")


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["fit", "--config=overlay.yaml"], b"overlay.yaml line 3"),
        (["fit", "--config=not_there.yaml"], b"not_there.yaml"),
        (["test", "--ckpt_path=half.ckpt"], b"half.ckpt"),
    ],
)
def test_a_process_of_its_own_ends_alike(arguments: list[str], answer: bytes, tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_bytes(to_yaml(strategy("GradDrop", rate=2)))
    (tmp_path / "half.ckpt").write_bytes(checkpoints()["half.ckpt"])
    before = sorted(tmp_path.iterdir())
    ended = subprocess.run(
        [sys.executable, ROOT / "cli.py", *arguments], cwd=tmp_path, capture_output=True, check=False
    )
    last = ended.stderr.splitlines()[-1]
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert last.startswith(b"error: ")
    assert answer in last
    assert b"Traceback" not in ended.stderr
    assert sorted(tmp_path.iterdir()) == before
