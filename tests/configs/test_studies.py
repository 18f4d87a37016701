"""The shipped studies: every arm makes a config, and the data that they read are made as documented."""

import csv
from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.studies.__main__ import CONFIGS
from benchmarks.studies.reviews import SIZES, make_reviews
from lightning_sparsegrad.studies._runs import Run, make_runs
from lightning_sparsegrad.studies._study import Study, Trial

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
LARGE = {
    "sparse",
    "spikes",
    "spikes_later",
    "stability_confirmation",
    "stability_reviews",
    "stability_words",
    "transfer",
}  # of many runs


def runs_of(path: Path, *, quick: bool = False) -> list[Run]:
    study_file: dict[str, Any] = yaml.safe_load(path.read_text())
    study = Study(**{**study_file, "trial": Trial(**study_file.get("trial", {}))})
    return make_runs(study.quickened() if quick else study, Path("runs"))


@pytest.mark.parametrize(
    "path",
    [pytest.param(each, id=each.stem, marks=pytest.mark.long if each.stem in LARGE else ()) for each in STUDIES],
)
def test_every_arm_is_a_config(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study_file = yaml.safe_load(path.read_text())
    runs = runs_of(path)
    settings = prod(map(len, study_file.get("grid", {}).values()))
    seeds = study_file["seeds"] if isinstance(study_file["seeds"], int) else len(study_file["seeds"])
    assert len(runs) == len(study_file["arms"]) * settings * seeds
    strategies = {run.arm: run.config["model"]["init_args"]["gradient_transform"] for run in runs}
    assert len({yaml.safe_dump(strategy) for strategy in strategies.values()}) == len(study_file["arms"])
    for arm, strategy in strategies.items():  # what an arm is called by is what it does
        numbers = [word for word in arm.replace(",", "").split() if word.replace(".", "").isdecimal()]
        dumped = yaml.safe_dump(strategy)
        assert all(f": {float(number)}\n" in dumped for number in numbers), arm
    assert 0 < len(runs_of(path, quick=True)) <= 12


def test_every_study_has_a_command() -> None:
    assert {path.stem for path in STUDIES} == {name for names in CONFIGS.values() for name in names}


@pytest.mark.long
def test_reviews_are_apart(tmp_path: Path) -> None:
    make_reviews(tmp_path)
    rows = {
        path.stem: list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]
        for path in tmp_path.glob("*.csv")
    }
    assert {name: len(rows_of_file) for name, rows_of_file in rows.items()} == {
        "validation": 1000,
        "test": 1000,
        **{f"train_{size}": size for size in SIZES},
    }
    sentences = {name: {sentence for sentence, _ in rows_of_file} for name, rows_of_file in rows.items()}
    assert sentences["train_500"] < sentences["train_1000"] < sentences["train_2500"]
    assert not sentences["train_2500"] & sentences["test"]
    assert not sentences["validation"] & (sentences["test"] | sentences["train_2500"])
    assert {polarity for rows_of_file in rows.values() for _, polarity in rows_of_file} == {"positive", "negative"}
