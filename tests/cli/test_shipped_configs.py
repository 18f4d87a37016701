"""Configs that come with the package are named without a path; a file of the user's comes first."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sparsegrad.cli._given import Given
from lightning_sparsegrad.files._shipped import config_file, shipped_configs
from lightning_sparsegrad.main import main
from lightning_sparsegrad.studies._runs import make_runs
from lightning_sparsegrad.studies._study import Study
from tests.cases import cases
from tests.cli.helpers import any_model, in_any, strategy
from tests.studies.tasks import BASE

ROOT = Path(__file__).parents[2]
NAMES = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")}
CGNC = {"max_norm": 0.01, "components": "tensor"}
MINE = in_any({"class_path": "GradDrop", "init_args": {"rate": 0.75}})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(*arguments: str) -> Any:
    return strategy(any_model().parse_args([*arguments]))


def write(name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(yaml.safe_dump(MINE))


# ------------------------------------------------------------ names
def test_every_config_has_a_name() -> None:
    assert set(shipped_configs()) == NAMES


@cases("spelling", ["--config gradient/cgnc", "--config=gradient/cgnc", "--config=gradient/cgnc.yaml"])
def test_a_flag_takes_a_name(spelling: str) -> None:
    assert CGNC.items() <= read(*spelling.split())["init_args"].items()


def test_a_dict_takes_a_name() -> None:
    assert CGNC.items() <= strategy(any_model().parse_object({"config": "gradient/cgnc"}))["init_args"].items()


@cases("words", ["--config quickstart", "-c quickstart", "-cquickstart", "--config=quickstart"])
def test_what_a_command_is_given_is_read_by_name(words: str) -> None:
    given = Given(["fit", *words.split()], ["fit"])
    assert given.classes == {"SequenceClassification", "ValenceDataModule"}


@pytest.mark.parametrize("name", ["gradient/cgnc", "gradient/cgnc.yaml"])
def test_a_file_of_the_user_comes_first(name: str) -> None:
    write(name)
    for spelling in {name, "gradient/cgnc"}:
        assert read("--config", spelling)["init_args"]["rate"] == 0.75


def test_a_folder_is_no_config() -> None:
    Path("quickstart").mkdir()
    assert config_file("quickstart") == str(ROOT / "configs" / "quickstart.yaml")


def test_a_users_own_needs_no_suffix() -> None:
    write("mine.yaml")
    assert read("--config=mine")["init_args"]["rate"] == 0.75


@cases("name", ["../configs/quickstart", "gradient/../quickstart", "/quickstart", "./quickstart", "../pyproject", ""])
def test_no_name_leads_anywhere_else(name: str) -> None:
    assert config_file(name) == name


@cases("text", ["{model: " + "x" * 5000 + "}", "\0", "model:\n  lr: 1\n"], ids=["long", "NUL", "lines"])
def test_a_config_written_out_stays(text: str) -> None:
    assert config_file(text) == text


# ------------------------------------------------------------ mistakes
@cases(
    ("name", "near"),
    [
        ("quickstrat", "`quickstart`"),
        ("cgnc", "`gradient/cgnc`."),
        ("configs/gradient/cgnc.yaml", "`gradient/cgnc`."),
        ("mime", "`mine`"),
        ("gradient/../quickstart", "`quickstart`"),
    ],
)
def test_a_name_of_nothing_is_answered_in_one_line(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.yaml")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["fit", "--config", name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: There is no config `{name}`, neither a file nor one of the package. Near matches: {near}"
    )


def test_the_help_lists_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert set(capsys.readouterr().out.replace(",", "").split()) >= NAMES


# ------------------------------------------------------------ studies
def digests(overlay: str) -> list[str]:
    study = Study(base=[BASE], arms={"clip": [overlay]}, seeds=2, metric="val/loss")
    return [run.digest for run in make_runs(study, Path("runs"))]


def test_a_run_is_the_same_by_either_spelling() -> None:
    assert digests("gradient/cgnc") == digests(str(ROOT / "configs" / "gradient" / "cgnc.yaml"))
    assert digests("gradient/cgnc") != digests("gradient/grad_drop")


def test_a_study_is_found_by_name_and_names_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["study", "--config", "studies/transfer", "--quick"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: The runs of this study read `benchmarks/studies/material/encoder`. Found none: ")
    assert "python -m benchmarks.studies transfer" in line
    assert not list(Path("studies").glob("transfer/quick/runs/*/log.txt"))


# ------------------------------------------------------------ from a wheel
def build(source: Path, kind: str, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)], cwd=source, check=True)
    (made,) = folder.iterdir()
    return made


@pytest.mark.long
def test_a_wheel_made_from_a_source_distribution_has_them_all(tmp_path: Path) -> None:
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("lightning_sparsegrad-*")
    for name in ("benchmarks", "cli.py", "constraints.txt", "tests", "CHANGELOG.md", "SECURITY.md"):
        assert (source / name).exists(), name
    assert not list(source.rglob("__pycache__"))
    installed = tmp_path / "site"
    with zipfile.ZipFile(build(source, "wheel", tmp_path / "wheel")) as archive:
        archive.extractall(installed)  # noqa: S202  # ours
    code = "from lightning_sparsegrad.files._shipped import shipped_configs; print(*shipped_configs())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    names = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert set(names.stdout.split()) == NAMES
    command = ["fit", "--config", "quickstart", "--config", "gradient/cgnc", "--print_config"]
    fit = [sys.executable, "-m", "lightning_sparsegrad", *command]
    printed = subprocess.run(fit, env=environment, capture_output=True, text=True, check=True).stdout
    transform = yaml.safe_load(printed)["model"]["init_args"]["gradient_transform"]
    assert CGNC.items() <= transform["init_args"].items()
