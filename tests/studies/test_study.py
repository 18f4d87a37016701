"""The config of a study, and the runs that it defines."""

from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_sparsegrad import ConfigurationError
from lightning_sparsegrad.studies._runs import Run, make_runs
from lightning_sparsegrad.studies._study import Study, Trial
from tests.studies.tasks import BASE, DROP, study


def runs_of(folder: Path, **changes: Any) -> list[Run]:
    return make_runs(Study(**study(**changes)), folder)


def test_there_is_a_run_for_each_arm_setting_and_seed(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, grid={"model.lr": [0.1, 0.2], "data": {"few": [{"data.size": 2}], "many": []}})
    assert len(runs) == len({run.name for run in runs}) == 3 * 4 * 2
    assert [run.setting for run in runs[:12:3]] == ["lr=0.1, few", "lr=0.1, many", "lr=0.2, few", "lr=0.2, many"]
    assert [run.seed for run in runs] == [0] * 12 + [1] * 12
    (run,) = (run for run in runs if (run.arm, run.setting, run.seed) == ("drop", "lr=0.2, few", 1))
    model, data = run.config["model"]["init_args"], run.config["data"]["init_args"]
    assert (model["lr"], data["size"], run.config["seed_everything"]) == (0.2, 2, 1)
    assert model["gradient_transform"]["init_args"]["rate"] == 0.5


def test_files_and_arguments_mean_what_they_mean_on_the_command_line(tmp_path: Path) -> None:
    chain = {
        "class_path": "Chain",
        "init_args": {
            "transforms": {
                "mask": {"class_path": "GradDrop", "init_args": {"rate": 0.2}},
                "clip": {"class_path": "ComponentNormClip", "init_args": {"max_norm": 0.1}},
            }
        },
    }
    overlay = tmp_path / "chain.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"init_args": {"gradient_transform": chain}}}))
    arm = [str(overlay), {"model.gradient_transform.transforms.mask.rate": 0.7}]
    (run,) = runs_of(tmp_path, arms={"chain": arm}, seeds=[4])
    transforms = run.config["model"]["init_args"]["gradient_transform"]["init_args"]["transforms"]
    assert transforms["mask"]["init_args"]["rate"] == 0.7
    assert transforms["clip"]["init_args"]["max_norm"] == 0.1


def test_a_number_may_be_infinite(tmp_path: Path) -> None:
    clip = {"class_path": "ComponentNormClip", "init_args": {"max_norm": inf}}
    by_name = {"model.gradient_transform": "ComponentNormClip", "model.gradient_transform.max_norm": inf}
    for arm in ({"model.gradient_transform": clip, "model.fault": 'an "Infinity"'}, by_name):
        (run,) = runs_of(tmp_path, arms={"clip": [arm]}, seeds=1)
        assert run.config["model"]["init_args"]["gradient_transform"]["init_args"]["max_norm"] == inf
        assert run.config["model"]["init_args"]["fault"] == arm.get("model.fault")
        run.write()
        assert "max_norm: .inf" in (run.folder / "run.yaml").read_text()


def test_a_name_is_of_the_content_of_its_config(tmp_path: Path) -> None:
    names = {run.name for run in runs_of(tmp_path)}
    assert names == {run.name for run in runs_of(tmp_path / "elsewhere")}
    same_rate = {**BASE, "model.lr": 0.1}  # its default
    assert names == {run.name for run in runs_of(tmp_path, base=[same_rate])}
    assert names.isdisjoint(run.name for run in runs_of(tmp_path, base=[{**BASE, "model.lr": 0.3}]))
    assert names < {run.name for run in runs_of(tmp_path, seeds=3)}


def test_a_run_is_an_ordinary_config(tmp_path: Path) -> None:
    keeping = {"class_path": "OnExceptionCheckpoint", "init_args": {"dirpath": str(tmp_path)}}
    names = "ModelCheckpoint", "GradientMonitor", "DeviceStatsMonitor"
    base = {**BASE, "trainer.callbacks": [{"class_path": name} for name in names]}
    run, *_ = runs_of(tmp_path, base=[base], distances_every=3)
    run.write()
    config = yaml.safe_load((run.folder / "run.yaml").read_text())
    callbacks = [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]
    assert callbacks == ["DeviceStatsMonitor", "GradientMonitor", "PretrainedDistance", "RunRecorder"]
    assert config["trainer"]["enable_checkpointing"] is False
    assert config["trainer"]["default_root_dir"] == str(run.folder)
    assert run.command == ["fit", "--config", str(run.folder / "run.yaml")]
    none, *_ = runs_of(tmp_path, base=[{**BASE, "trainer.callbacks": [keeping]}], gradients_every=None)
    assert none.config["trainer"]["callbacks"] == []
    kept, *_ = runs_of(tmp_path, base=[base], checkpoints=True, gradients_every=None)
    callbacks = [callback["class_path"].rpartition(".")[2] for callback in kept.config["trainer"]["callbacks"]]
    assert callbacks == ["ModelCheckpoint", "GradientMonitor", "DeviceStatsMonitor"]


def test_the_quick_version_is_smaller(tmp_path: Path) -> None:
    trial = Trial(seeds=1, arms=["plain", "drop"], settings={"model.lr": [0.2]}, overlays=[{"trainer.max_epochs": 1}])
    small = Study(**study(grid={"model.lr": [0.1, 0.2]}, trial=trial)).quickened()
    runs = make_runs(small, tmp_path)
    assert [(run.arm, run.setting, run.seed) for run in runs] == [("plain", "lr=0.2", 0), ("drop", "lr=0.2", 0)]
    assert {run.config["trainer"]["max_epochs"] for run in runs} == {1}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"arms": {}}, r"Parameter `arms` should hold an arm\. Found"),
    ({"seeds": 0}, r"Parameter `seeds` should hold a seed\. Found `seeds = 0`"),
    (
        {"seeds": [1, 1]},
        r"Parameter `seeds` should hold non-negative numbers up to \d+, each once\. Found `seeds = \[1, 1\]`",
    ),
    ({"seeds": [2**32]}, r"Parameter `seeds` should hold non-negative numbers up to 4294967295, .*`seeds = \[42"),
    ({"baseline": "plain", "trial": Trial(arms=["drop"])}, r"`trial.arms` should hold the baseline, `plain`\."),
    ({"seeds": [-1]}, r"Parameter `seeds` should hold non-negative numbers"),
    ({"baseline": "plane"}, r"Parameter `baseline` should be one of .* Near matches: `plain`"),
    ({"mode": "most"}, r"Parameter `mode` should be one of 'max', 'min'\. Found `mode = 'most'`"),
    ({"select": "first"}, r"Parameter `select` should be one of 'last', 'best'"),
    ({"grid": {"model.lr": 0.1}}, r"Parameter `grid` should give `model.lr` a list of values"),
    ({"grid": {"model.lr": []}}, r"Parameter `grid` should give `model.lr` a list of values"),
    ({"grid": {"d": {"few": "few.yaml"}}}, r"`grid\.d` should give `few` a list of files .* `few = 'few.yaml'`"),
    ({"grid": {"d": {"few": {"data.size": 2}}}}, r"Parameter `grid\.d` should give `few` a list"),
    ({"grid": {"d": {"few": None}}}, r"Parameter `grid\.d` should give `few` a list"),
    ({"grid": {"d": {2: []}}}, r"Parameter `grid\.d` should have names that are text.* Found `2`"),
    ({"arms": {False: []}}, r"Parameter `arms` should have names that are text.* Found `False`"),
    ({"gradients_every": 0}, r"Parameter `gradients_every` should be positive or null\. Found"),
    ({"trial": Trial(arms=["dorp"])}, r"Parameter `trial.arms` should be one of .* Near matches: `drop`"),
    ({"trial": Trial(settings={"lr": [1]})}, r"Parameter `trial.settings` should be one of "),
    (
        {"grid": {"model.lr": [0.1]}, "trial": Trial(settings={"model.lr": [0.2]})},
        r"Parameter `trial.settings.model.lr` should be one of 0\.1\. Found .*0\.2",
    ),
]


def test_what_a_study_cannot_say(subtests: pytest.Subtests) -> None:
    for changes, message in MISTAKES:
        with subtests.test(str(changes)), pytest.raises(ConfigurationError, match=message):
            Study(**study(**changes))


def test_an_arm_that_makes_no_config_is_named(tmp_path: Path) -> None:
    wrong = [{"model.gradient_transform": "GradDrop", "model.gradient_transform.rat": 0.5}]
    with pytest.raises(ConfigurationError, match=r"In arm `wrong`: `rat` is not an argument of `GradDrop`.*`rate`\.$"):
        runs_of(tmp_path, arms={"plain": [], "wrong": wrong})
    with pytest.raises(ConfigurationError, match=r"In arm `plain`: .*missing\.yaml"):
        runs_of(tmp_path, arms={"plain": ["missing.yaml"]})


def test_a_study_warns_of_too_few_seeds(subtests: pytest.Subtests) -> None:
    for arms, seeds, needed in ((11, 9, None), (11, 8, 9), (2, 6, None), (2, 5, 6), (1, 1, None)):
        names: dict[str, list[Any]] = {str(number): [] for number in range(arms)}
        warning = Study(base=[], arms=names, seeds=seeds, metric="loss").warning
        with subtests.test(arms=arms, seeds=seeds):
            assert warning.startswith(f"With {arms} arms it takes {needed} seeds" if needed else "")
            assert bool(warning) is bool(needed)


def test_two_names_for_the_same_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Found `drop` and `again`, which are the same\."):
        runs_of(tmp_path, arms={"drop": [DROP], "again": [DROP]})
    grid = {
        "model.gradient_transform": ["Identity", "HeadOnly"]
    }  # the overlays of an arm apply after those of its setting
    with pytest.raises(
        ConfigurationError, match=r"Found `drop` in `gradient_transform=Identity` and `drop` in `gradient_tr.*"
    ):
        runs_of(tmp_path, arms={"drop": [DROP]}, grid=grid)


def test_long_names_make_folders(tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path, arms={"面" * 300: []}, grid={"x" * 300: {"y" * 300: []}}, seeds=1)
    run.write()
    assert run.folder.is_dir()
    assert run.name.endswith(f"-seed0-{run.digest}")
