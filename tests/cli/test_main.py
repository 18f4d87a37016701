"""The command line, from its arguments to its output, files and exit status."""

import runpy
import sys
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningCLI

from lightning_sparsegrad import (
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
    GradientTransform,
    ProgressLines,
    SparseGradCLI,
)
from lightning_sparsegrad.main import main
from tests.command_line import DROP, HOOK, LABELLED, PLAIN, QUICK, READER, SAVE, UNLABELLED, Plain, Reader


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSEGRAD_DEBUG", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    Reader.made.clear()


@pytest.fixture
def checkpoint() -> str:
    """A checkpoint of a run with GradDrop(0.5) and lr 0.25 on four rows of `Labelled`."""
    main(["fit", READER, LABELLED, *DROP, "--model.lr=0.25", *QUICK, SAVE])
    (path,) = Path("checkpoints").iterdir()
    Reader.made.clear()
    return str(path)


def saved_config(version: int = 0) -> Any:
    return yaml.safe_load(Path(f"lightning_logs/version_{version}/config.yaml").read_text())


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def table_in(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the table at the end of a fit."""
    rows = dict(row.strip("│ ").split("│") for row in capsys.readouterr().out.splitlines() if row.startswith("│"))
    return {name.strip(): value.strip() for name, value in rows.items()}


# ------------------------------------------------------------ a run
def test_fit_ends_with_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    transforms = {
        "skip": {"class_path": "SpikeSkip"},
        "clip": {"class_path": "ComponentNormClip", "init_args": {"max_norm": 1e-6}},
        "mask": {"class_path": "GradDrop", "init_args": {"rate": 0.5}},
    }
    chain = {"class_path": "Chain", "init_args": {"transforms": transforms}}
    Path("strategy.yaml").write_text(
        yaml.safe_dump({"model": {"init_args": {"gradient_transform": chain}}}, sort_keys=False)
    )
    arguments = [READER, LABELLED, "--config=strategy.yaml", "--trainer.log_every_n_steps=1"]
    cli = SparseGradCLI(args=["fit", *arguments, *QUICK])
    table = table_in(capsys)
    metrics = cli.trainer.callback_metrics
    assert table["val/loss"] == f"{metrics['val/loss']:.4g}"
    assert table["share of entries kept"] == f"{metrics['gradient/kept']:.1%}"
    assert table["share of components clipped"] == "100.0%"
    assert table["windows left out"] == "0"
    assert float(table["wall time"].removesuffix(" s")) < 60


def test_what_was_not_measured_is_not_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = ["--trainer.callbacks+=GradientMonitor", "--trainer.callbacks.every_n_steps=1"]
    SparseGradCLI(args=["fit", READER, LABELLED, *DROP, *monitor, "--trainer.log_every_n_steps=1", *QUICK])
    table = table_in(capsys)
    assert "monitor/norm_before" in table
    assert "monitor/threshold" not in table


def test_main_returns_nothing() -> None:
    main(["fit", READER, LABELLED, *DROP, *QUICK])
    assert Reader.made == [{"num_labels": 3, "lr": 0.1, "transform": "GradDrop(rate=0.5)"}]


def test_other_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [argument for argument in QUICK if "max_epochs" not in argument]
    for subcommand in ("validate", "test", "predict"):
        cli = SparseGradCLI(args=[subcommand, READER, LABELLED, *DROP, *arguments])
        assert cli.trainer.state.finished
        assert "wall time" not in capsys.readouterr().out


def test_second_run_into_the_same_directory() -> None:
    main(["fit", READER, LABELLED, *DROP, *QUICK])
    main(["fit", READER, LABELLED, *DROP, "--model.lr=0.5", *QUICK])
    assert [saved_config(version)["model"]["init_args"]["lr"] for version in (0, 1)] == [0.1, 0.5]
    assert sorted(map(str, Path().iterdir())) == ["lightning_logs"]


def test_a_config_the_user_wrote_is_not_overwritten() -> None:
    written = f"# by hand\nmodel: {Reader.__module__}.Reader\n"
    Path("config.yaml").write_text(written)
    main(["fit", "--config=config.yaml", LABELLED, *DROP, *QUICK])
    assert Path("config.yaml").read_text() == written
    assert saved_config()["model"]["init_args"]["lr"] == 0.1


@pytest.mark.filterwarnings("ignore:No seed found:UserWarning")
def test_saved_config_holds_the_resolved_seed() -> None:
    cli = SparseGradCLI(args=["fit", READER, LABELLED, *DROP, *QUICK[1:]])
    seed = saved_config()["seed_everything"]
    assert type(seed) is int
    assert seed == cli.config["fit"]["seed_everything"]


def test_progress_bar_is_rich_by_default() -> None:
    def bar(*arguments: str) -> Any:
        return SparseGradCLI(args=[PLAIN, *QUICK[:4], *arguments], run=False).trainer.progress_bar_callback

    assert isinstance(bar(), RichProgressBar)
    assert isinstance(bar("--trainer.callbacks+=TQDMProgressBar"), TQDMProgressBar)
    assert bar("--trainer.enable_progress_bar=false") is None


def test_progress_lines_are_those_of_the_user() -> None:
    def intervals(*arguments: str) -> list[float]:
        callbacks = SparseGradCLI(args=[PLAIN, *QUICK[:4], *arguments], run=False).trainer.callbacks  # type: ignore[attr-defined]
        return [callback.interval for callback in callbacks if isinstance(callback, ProgressLines)]

    assert intervals() == [60.0]
    assert intervals("--trainer.callbacks+=ProgressLines", "--trainer.callbacks.interval=.inf") == [inf]


# ------------------------------------------------------------ num_labels
def test_labels_of_the_data_reach_the_model() -> None:
    cli = SparseGradCLI(args=[READER, LABELLED, *DROP, *QUICK], run=False)
    assert cli.model.layer.out_features == 3
    cli = SparseGradCLI(args=[READER, UNLABELLED, *DROP, "--model.num_labels=5", *QUICK], run=False)
    assert cli.model.layer.out_features == 5  # the user's choice
    for data in ([LABELLED], [UNLABELLED], []):
        assert isinstance(SparseGradCLI(args=[PLAIN, *data, *QUICK], run=False).model, Plain)


# ------------------------------------------------------------ checkpoints
def test_checkpoint_alone_is_enough(checkpoint: str) -> None:
    cli = SparseGradCLI(args=["test", "--ckpt_path", checkpoint, *QUICK, SAVE])
    assert Reader.made == [{"num_labels": 3, "lr": 0.25, "transform": "GradDrop(rate=0.5)"}]
    assert torch.equal(cli.model.layer.weight, torch.load(checkpoint)["state_dict"]["layer.weight"])


def test_flags_win_over_the_checkpoint(checkpoint: str) -> None:
    cli = SparseGradCLI(args=["test", f"--ckpt_path={checkpoint}", "--model.lr=0.75", "--data.size=2", *QUICK, SAVE])
    assert Reader.made == [{"num_labels": 3, "lr": 0.75, "transform": "GradDrop(rate=0.5)"}]
    assert cli.datamodule.size == 2


def test_files_win_over_the_checkpoint_and_no_old_strategy_shows_through(checkpoint: str) -> None:
    clip = {"class_path": "ComponentNormClip", "init_args": {"max_norm": 2.0}}
    Path("task.yaml").write_text(
        yaml.safe_dump(
            {"model": {"class_path": f"{Reader.__module__}.Reader", "init_args": {"gradient_transform": clip}}}
        )
    )
    main(["test", "--config", "task.yaml", "--ckpt_path", checkpoint, *QUICK, SAVE])
    assert Reader.made == [{"num_labels": 3, "lr": 0.25, "transform": repr(ComponentNormClip(2.0))}]


def test_checkpoint_named_in_a_file(checkpoint: str) -> None:
    Path("task.yaml").write_text(yaml.safe_dump({"ckpt_path": checkpoint, "model": {"init_args": {"lr": 0.75}}}))
    main(["test", "--config", "task.yaml", *QUICK, SAVE])
    assert Reader.made == [{"num_labels": 3, "lr": 0.75, "transform": "GradDrop(rate=0.5)"}]


def test_checkpoint_named_in_a_dict(checkpoint: str) -> None:
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    model = {"init_args": {"lr": 0.75, "gradient_transform": {"class_path": "GradDrop", "init_args": {"rate": 0.1}}}}
    arguments = {"ckpt_path": checkpoint, "trainer": trainer, "model": model, "seed_everything": 0}
    SparseGradCLI(args={"subcommand": "test", "test": arguments})
    assert Reader.made == [{"num_labels": 3, "lr": 0.75, "transform": repr(GradDrop(0.1))}]


@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
def test_fit_goes_on_from_a_checkpoint(checkpoint: str) -> None:
    arguments = [argument for argument in QUICK if "max_epochs" not in argument]
    cli = SparseGradCLI(args=["fit", "--ckpt_path", checkpoint, "--trainer.max_epochs=3", *arguments, SAVE])
    assert Reader.made == [{"num_labels": 3, "lr": 0.25, "transform": "GradDrop(rate=0.5)"}]
    assert cli.trainer.global_step == 3 * 4


def test_one_model_with_a_checkpoint() -> None:
    arguments = [UNLABELLED, "--model.num_labels=2", "--model.lr=0.25", *DROP, *QUICK, SAVE]
    SparseGradCLI(Reader, args=["fit", *arguments])
    (path,) = Path("checkpoints").iterdir()
    SparseGradCLI(Reader, args=["test", "--ckpt_path", str(path), "--model.lr=0.5", *QUICK, SAVE])
    assert Reader.made[-1] == {"num_labels": 2, "lr": 0.5, "transform": "GradDrop(rate=0.5)"}


class Saver(Reader):
    def __init__(self, num_labels: int, gradient_transform: GradientTransform, lr: float = 0.1) -> None:
        super().__init__(num_labels, gradient_transform, lr)
        self.save_hyperparameters()


def test_checkpoint_of_another_lightning_cli(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["other"])
    model = [f"--model={__name__}.Saver", "--model.num_labels=2", "--model.lr=0.25", UNLABELLED]
    LightningCLI(args=["fit", *model, *DROP, *QUICK, SAVE], auto_configure_optimizers=False)
    (path,) = Path("checkpoints").iterdir()
    Reader.made.clear()
    main(["test", "--ckpt_path", str(path), UNLABELLED, "--model.lr=0.5", *QUICK, SAVE])
    assert Reader.made == [{"num_labels": 2, "lr": 0.5, "transform": "GradDrop(rate=0.5)"}]


def test_checkpoint_of_a_class_that_is_gone(checkpoint: str) -> None:
    stored = torch.load(checkpoint)
    stored["lightning_sparsegrad_config"]["model"]["class_path"] = "gone.Reader"
    moved = "moved.ckpt"
    torch.save(stored, moved)
    with pytest.warns(UserWarning, match=r"`gone.Reader`, which cannot be found: give --model"):
        main(["test", "--ckpt_path", moved, READER, *DROP, *QUICK, SAVE])
    assert [made["num_labels"] for made in Reader.made] == [3]


def test_missing_checkpoint(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint.replace(".ckpt", ".ckpd")
    for subcommand in ("fit", "test"):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([subcommand, READER, LABELLED, *DROP, "--ckpt_path", path])
        line = last_line(capsys)
        assert line.startswith(f"error: There is no file `{path}`. Near matches: `{Path(checkpoint).name}`.")


# ------------------------------------------------------------ errors
WORDS = ["--model=TokenClassification", "--model.model_name_or_path=nowhere", "--model.gradient_transform=Identity"]


REFUSED: list[tuple[list[str], str]] = [
    ([READER, LABELLED, *DROP, "--model.gradient_transform.rate=1.5"], "Parameter `rate` should be in [0, 1]."),
    ([READER, LABELLED, *DROP, "--model.fault=value"], "Parameter `fault` should be `None`."),
    ([PLAIN, UNLABELLED, "--data.size=0"], "Parameter `size` should be positive. Found `size = 0`."),
    ([PLAIN, UNLABELLED, "--trainer.accelerator=cpuu"], "You selected an invalid accelerator name"),
    ([*WORDS, UNLABELLED], "Neither `--model.label_names` nor the data give `label_names`."),
    ([READER, UNLABELLED, *DROP], "Neither `--model.num_labels` nor the data give `num_labels`."),
    (
        [READER, LABELLED, *DROP, "--model.num_labels=5"],
        "Parameter `--model.num_labels` should be left out, or be that of the data: 3. Found `--model.num_labels = 5`.",
    ),
    ([HOOK, UNLABELLED], "Parameter `hook` cannot be set up."),
]


def test_configuration_error_is_one_line(capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests) -> None:
    for arguments, answer in REFUSED:
        with subtests.test(answer=answer):
            with pytest.raises(SystemExit, match=r"^2$"):
                main(["fit", *QUICK, *arguments])
            errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
            assert len(errors) == 1
            assert answer in errors[0]


class Two(Reader):
    """Model with a default that the user does not override."""

    def __init__(self, gradient_transform: GradientTransform, num_labels: int = 2) -> None:
        super().__init__(num_labels, gradient_transform)


def test_what_the_data_say_of_labels_holds() -> None:
    for model in ([READER, "--model.num_labels=3"], [f"--model={__name__}.Two"]):
        main(["fit", *QUICK, *model, LABELLED, *DROP])
    assert [made["num_labels"] for made in Reader.made] == [3, 3]


def test_configuration_error_keeps_its_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEGRAD_DEBUG", "1")
    with pytest.raises(ConfigurationError, match=r"Parameter `rate` should be in \[0, 1\]") as error:
        main(["fit", *QUICK, READER, LABELLED, *DROP, "--model.gradient_transform.rate=1.5"])
    assert error.value.__cause__ is not None


def test_bug_in_a_constructor_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="a bug in the constructor") as error:
        main(["fit", *QUICK, READER, LABELLED, *DROP, "--model.fault=bug"])
    assert not isinstance(error.value, ConfigurationError)
    assert isinstance(error.value.__cause__, RuntimeError)


def test_bug_in_training_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="a bug in the training step"):
        main(["fit", *QUICK, READER, LABELLED, *DROP, "--model.fault=step"])


class Interrupted(Plain):
    def __init__(self) -> None:
        raise KeyboardInterrupt


def test_gradients_that_are_not_finite_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["fit", READER, LABELLED, *DROP, "--model.fault=nan", *QUICK])
    line = (
        "Gradients should be finite with `nonfinite = 'raise'`. Found an infinite or undefined one, of `layer.weight`"
    )
    assert last_line(capsys).startswith(f"error: {line}, at step 0.")


def test_interruption_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["fit", f"--model={__name__}.Interrupted", UNLABELLED, *QUICK])
    assert exit_info.value.code == 130


def test_printed_config_is_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["fit", PLAIN, "--print_config"])
    assert exit_info.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == f"{Plain.__module__}.Plain"


def test_script_exits_with_its_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = str(Path(__file__).parents[2] / "cli.py")
    monkeypatch.setattr(sys, "argv", [script, "fit", "--modle=3"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (2, "")
    assert captured.err.splitlines()[-1].startswith(
        "error: `modle` is not an option, in `--modle=3`. Near matches: `model`."
    )


def test_a_search_for_a_learning_rate_that_the_model_has_not_ends_with_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    finder = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.attr_name=speed"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", READER, LABELLED, *DROP, *(flag for flag in QUICK if "fast_dev_run" not in flag), *finder])
    assert ended.value.code == 2
    assert "The attribute name for the learning rate was set to speed" in last_line(capsys)
