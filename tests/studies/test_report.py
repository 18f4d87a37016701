"""The report: its tables, its text, its pictures."""

from math import isnan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from lightning_sparsegrad.studies._comparison import summarise
from lightning_sparsegrad.studies._report import write_report
from lightning_sparsegrad.studies._run_results import RunResult
from lightning_sparsegrad.studies._study import Study
from lightning_sparsegrad.studies.gradient_pictures import draw, draw_gradients
from tests.studies.simulated import broken, simulate, study_of

GAINS = {"en": 0.1, "de": 0.0, "sw": -0.1}


def recorded(runs: list[RunResult]) -> list[RunResult]:
    """Write the files of a `GradientMonitor` and a `PretrainedDistance`, and return the runs."""
    generator = np.random.default_rng(0)
    names = [f"{layer}.{kind}" for layer in ("embeddings", "block 0", "head") for kind in ("weight", "bias")]
    layers = [name.partition(".")[0] for name in names]
    for run in runs:
        run.folder.mkdir(parents=True)
        index = pd.DataFrame(
            {"step": np.repeat([0, 10, 20], 6), "epoch": 0, "component": names * 3, "layer": layers * 3}
        )
        clips = {"clipped": generator.integers(2, size=18) * ("clip" in run.arm), "kept": 1.0}
        norms = {"norm_before": generator.random(18) + (5 if run.failed else 0.1), "norm_after": 0.1}
        index.assign(**norms, **clips).to_parquet(run.folder / "gradients.parquet")
        moved = {"rms": index["step"] * generator.random(18), "cosine": 1 - 0.1 * generator.random(18)}
        index.assign(**moved).to_parquet(run.folder / "distances.parquet")
    return runs


def example(folder: Path) -> tuple[Study, list[RunResult]]:
    study = study_of("plain", "clip", "mask", grid={"lr": [0.1, 0.2]}, seeds=8, groups={"held out": ["de", "sw"]})
    runs = [
        *simulate("plain", setting="lr=0.1", failing=0.9, seeds=8, parts=GAINS, folder=folder / "runs"),
        *simulate("clip", setting="lr=0.1", mean=0.9, seeds=8, parts=GAINS, folder=folder / "runs"),
        *simulate("plain", setting="lr=0.2", seeds=8, parts=GAINS, folder=folder / "runs"),
        *simulate("mask", setting="lr=0.2", seeds=8, parts={"en": 0.1, "sw": 0.2}, folder=folder / "runs"),
    ]
    return study, recorded(runs)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[RunResult]]:
    folder = tmp_path_factory.mktemp("study")
    study, runs = example(folder)
    text = write_report(study, [*runs, broken("mask", 9, "lr=0.2")], folder, missing=3)
    return folder, text, runs


def test_tables_hold_what_the_runs_say(written: tuple[Path, str, list[RunResult]]) -> None:
    folder, _, runs = written
    table = pd.read_csv(folder / "runs.csv")
    assert len(table) == len(runs) + 1
    for arm, setting in {(run.arm, run.setting) for run in runs}:
        own = [run for run in runs if (run.arm, run.setting) == (arm, setting)]
        arms = pd.read_csv(folder / "arms.csv").query(f"arm == '{arm}' and setting == '{setting}'").iloc[0]
        values = [run.value for run in own]
        assert arms["mean"] == pytest.approx(np.mean(values))
        assert arms["deviation"] == pytest.approx(np.std(values, ddof=1))
        assert (arms["min"], arms["max"]) == pytest.approx((min(values), max(values)))
        assert arms["failed"] == sum(run.failed for run in own) + (arm == "mask")
        assert arms["mean_low"] < arms["mean"] < arms["mean_high"]
        assert arms["seconds"] == pytest.approx(np.median([run.seconds for run in own]))
        parts = pd.read_csv(folder / "parts.csv").query(f"arm == '{arm}' and setting == '{setting}'").iloc[0]
        assert parts["sw"] == pytest.approx(np.mean([run.parts["sw"] for run in own]))


def test_the_text_tells_it(written: tuple[Path, str, list[RunResult]]) -> None:
    folder, text, runs = written
    assert (folder / "report.md").read_text() == text
    first, second = text.split("## lr=0.2")
    assert "33 runs, 3 more are missing" in first
    assert "A run has failed if it is no better than 0.500." in first
    (line,) = [line for line in first.splitlines() if line.startswith("| clip") and "mean" in line]
    assert "better mean" in line
    assert "fails less" in line
    assert "- : RuntimeError: a bug" in second
    groups = pd.read_csv(folder / "parts.csv")[["de", "sw"]].mean(axis=1)
    assert f"{groups[0]:.3f} [" in first
    assert "held out [95%]" in first
    values = {
        arm: [np.mean([run.parts["de"], run.parts["sw"]]) for run in runs if (run.arm, run.setting) == (arm, "lr=0.1")]
        for arm in ("plain", "clip")
    }
    gain = np.mean(np.subtract(values["clip"], values["plain"]))
    (line,) = [
        line for line in first.splitlines() if line.startswith("| clip") and line.count(" [") == 2 and " +" in line
    ]
    assert f" {gain:+.3f} [" in line


def test_pictures_are_drawn_and_shown(written: tuple[Path, str, list[RunResult]]) -> None:
    folder, text, _ = written
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert pictures == sorted(
        f"{name}.png"
        for name in ("clip_rate", "curves", "directions", "distances", "distributions", "heatmap", "norms", "parts")
    )
    for name in pictures:
        assert f"({name})" in text
        pixels = imread(folder / name)
        assert min(pixels.shape[:2]) > 150
        assert pixels[..., :3].std() > 0.05


@pytest.mark.long
def test_the_same_runs_make_the_same_report(written: tuple[Path, str, list[RunResult]], tmp_path: Path) -> None:
    folder, text, runs = written
    study = study_of("plain", "clip", "mask", grid={"lr": [0.1, 0.2]}, seeds=8, groups={"held out": ["de", "sw"]})
    again = write_report(study, [broken("mask", 9, "lr=0.2"), *reversed(runs)], tmp_path, missing=3)
    assert again == text
    for path in folder.glob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_arms_without_a_difference_are_never_called_better(tmp_path: Path) -> None:
    runs = [run for arm in ("a", "b", "c") for run in simulate(arm, seeds=6)]
    text = write_report(study_of("a", "b", "c", seeds=6), runs, tmp_path)
    assert "better" not in text.replace("no better than", "")
    assert text.count("no difference shown") == 2
    assert not (tmp_path / "clip_rate.png").exists()


@pytest.mark.long
def test_what_an_earlier_report_drew_goes(tmp_path: Path) -> None:
    study, runs = example(tmp_path)
    write_report(study, runs, tmp_path)
    write_report(study_of("a", seeds=1), simulate("a", seeds=1), tmp_path)
    assert {path.name for path in tmp_path.glob("*.*")} == {
        "report.md",
        "runs.csv",
        "arms.csv",
        "distributions.png",
        "curves.png",
    }


def test_the_report_gives_the_range_of_different_bars(tmp_path: Path) -> None:
    runs = [RunResult("a", "", seed, 0.8, bar, 1) for seed, bar in enumerate((0.5, 0.4))]
    assert "no better than its bar, from 0.400 to 0.500." in write_report(study_of("a", seeds=2), runs, tmp_path)


def test_the_report_names_parts_that_no_run_has(tmp_path: Path) -> None:
    study = study_of("a", "b", groups={"held out": ["de", "xx"]})
    runs = [run for arm in ("a", "b") for run in simulate(arm, seeds=2, parts=GAINS)]
    assert "groups of parts; no run has `xx`:" in write_report(study, runs, tmp_path)


def test_a_baseline_without_a_value_has_no_gains(tmp_path: Path) -> None:
    text = write_report(study_of("a", "b", seeds=1), [broken("a", 0), *simulate("b", seeds=1, parts=GAINS)], tmp_path)
    assert "parts.png" not in text


def test_names_may_have_dollars(tmp_path: Path) -> None:
    names = "5$ rate", r"$\frac{b$"
    write_report(study_of(*names), [run for name in names for run in simulate(name, parts=GAINS)], tmp_path)
    assert (tmp_path / "parts.png").is_file()


def test_one_run_makes_a_report(tmp_path: Path) -> None:
    text = write_report(study_of("a", "b", seeds=1), simulate("a", seeds=1), tmp_path)
    assert "| a " in text
    assert isnan(pd.read_csv(tmp_path / "arms.csv")["mean_low"][0])


def test_only_errors_make_a_report(tmp_path: Path) -> None:
    text = write_report(study_of("a", "b", seeds=1), [broken("a", 0), broken("b", 0)], tmp_path)
    assert text.count("RuntimeError: a bug") == 2


def test_one_run_can_be_drawn(tmp_path: Path) -> None:
    (run,) = recorded(simulate("clip", seeds=1, folder=tmp_path))
    figure = draw_gradients(pd.read_parquet(run.folder / "gradients.parquet"))
    figure.savefig(tmp_path / "gradients.png")
    assert len(figure.axes) == 4
    assert imread(tmp_path / "gradients.png").std() > 0.05


def history_of(layers: list[str], steps: list[int], **columns: object) -> pd.DataFrame:
    rows = [(step, layer) for step in steps for layer in layers]
    table = pd.DataFrame({"step": [step for step, _ in rows], "layer": [layer for _, layer in rows]})
    measured = {"norm_before": 1.0, "norm_after": 1.0, "clipped": 0.0, "kept": 1.0, **columns}
    return table.assign(component=table["layer"], epoch=0, **measured)


@pytest.mark.parametrize("steps", [[19], [19, 39, 59]])
def test_many_layers_are_named_within_the_picture(steps: list[int]) -> None:
    layers = ["embeddings", *(f"block {depth}" for depth in range(24)), "head"]
    figure = draw_gradients(history_of(layers, steps))
    figure.draw_without_rendering()
    legends = [legend for panel in figure.axes if (legend := panel.get_legend())]
    for legend in legends:
        assert all(figure.bbox.contains(x, y) for x, y in legend.get_window_extent().get_points())
    names = [text.get_text() for text in legends[1].get_texts()]
    assert (names[0], names[-1], len(names)) == ("embeddings", "head", 14)


def test_what_is_frozen_lowers_no_share() -> None:
    nan, half = float("nan"), [1.0, 0.0] * 2
    history = history_of(["a", "b"], [0, 1], clipped=half, kept=[0.5, nan] * 2, norm_before=[1.0, nan] * 2)
    shares = draw_gradients(history).axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in shares] == [[1, 1], [0.5, 0.5]]  # type: ignore[union-attr]


def test_an_arm_that_clips_in_one_setting_is_shown_in_all(tmp_path: Path) -> None:
    study = study_of("plain", "clip", "mild", grid={"lr": [0.1, 0.2]}, seeds=1)
    clipped = {("clip", "lr=0.1"): 1.0, ("mild", "lr=0.2"): 1.0}
    runs = [
        run
        for arm in ("plain", "clip", "mild")
        for setting in ("lr=0.1", "lr=0.2")
        for run in simulate(arm, setting=setting, seeds=1, folder=tmp_path)
    ]
    for run in runs:
        run.folder.mkdir()
        share = clipped.get((run.arm, run.setting), 0.0)
        history_of(["a"], [0, 1], clipped=share).to_parquet(run.folder / "gradients.parquet")
    figure, _ = draw(study, summarise(study, runs))["clip_rate.png"]
    assert figure is not None
    for panel in figure.axes:
        assert [line.get_label() for line in panel.get_lines()] == ["clip", "mild"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["clip", "mild"]


def test_panels_of_many_settings_stand_in_rows(tmp_path: Path) -> None:
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    settings = [f"lr={rate}" for rate in rates]
    study = study_of("plain", "clip", grid={"lr": rates}, seeds=1)
    runs = [
        run
        for arm in ("plain", "clip")
        for setting in settings
        for run in simulate(arm, setting=setting, seeds=1, folder=tmp_path)
    ]
    for figure, _ in draw(study, summarise(study, recorded(runs))).values():
        assert figure is not None
        assert figure.get_figwidth() < 20
