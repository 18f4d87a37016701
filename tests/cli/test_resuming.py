"""`sparsegrad fit --ckpt_path` alone resumes; files and flags override the arguments in the checkpoint."""

import warnings
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_sparsegrad import ConfigurationError, ExactResume, GradDrop, SparseGradCLI
from lightning_sparsegrad.cli._checkpoint_defaults import require_same_seed
from lightning_sparsegrad.main import main
from lightning_sparsegrad.resume._checkpoints import StoredRun
from tests.command_line import DROP, LABELLED, PLAIN, READER, Reader

CONFIG = "lightning_sparsegrad_config"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
FIT = ["fit", READER, LABELLED, *DROP, *QUIET, "--model.lr=0.25"]
SETTINGS = ["--trainer.max_epochs=4", "--trainer.accumulate_grad_batches=2", "--seed_everything=5"]
STEPS = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2"]
STEPS += ["--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.filename={step}", "--trainer.default_root_dir=runs"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Starting from v1.9.0"),
    pytest.mark.filterwarnings("ignore:The number of training batches", "ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSEGRAD_DEBUG", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    Reader.made.clear()


def run(*arguments: str) -> Trainer:
    return SparseGradCLI(args=list(arguments)).trainer


def saved(version: int) -> list[Path]:
    return sorted(Path(f"runs/lightning_logs/version_{version}/checkpoints").glob("*.ckpt"))


@pytest.fixture(scope="module")
def run_of_eight_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(folder)
        warnings.simplefilter("ignore")
        run(*FIT, *SETTINGS, *STEPS)
    return folder


@pytest.fixture
def first(run_of_eight_steps: Path) -> Path:
    """The first checkpoint of a run of 8 steps."""
    copytree(run_of_eight_steps, ".", dirs_exist_ok=True)
    return saved(0)[0]


def stored(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def change(path: Path, **config: Any) -> str:
    """Return a checkpoint with changes to its config."""
    checkpoint = stored(path)
    for key, value in config.items():
        name, _, argument = key.partition("__")
        (checkpoint[CONFIG][name] if argument else checkpoint[CONFIG])[argument or name] = value
    torch.save(checkpoint, "changed.ckpt")
    return "changed.ckpt"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(list(arguments))
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(("error:", "Traceback")) for line in lines) == 1
    return lines[-1]


# ------------------------------------------------------------ one command
def test_the_checkpoint_alone_resumes_to_the_bit_in_a_folder_of_its_own(first: Path) -> None:
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    run("fit", "--ckpt_path", str(first))
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in saved(1)] == [path.name for path in saved(0)[1:]]
    whole, resumed = (stored(saved(version)[-1]) for version in (0, 1))
    assert whole["global_step"] == resumed["global_step"] == 8
    assert torch.equal(whole["state_dict"]["layer.weight"], resumed["state_dict"]["layer.weight"])
    for key in ("seed_everything", "exact_resume", "trainer", "model", "data"):
        assert whole[CONFIG][key] == resumed[CONFIG][key]
    assert whole[CONFIG].keys().isdisjoint({"ckpt_path", "config", "weights_only"})


def test_the_resumed_run_can_be_resumed(first: Path) -> None:
    run("fit", "--ckpt_path", str(first))
    run("fit", "--ckpt_path", str(saved(1)[0]))
    whole, resumed = (stored(saved(version)[-1])["state_dict"]["layer.weight"] for version in (0, 2))
    assert torch.equal(whole, resumed)


def test_flags_and_files_win(first: Path) -> None:
    callback = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss"}}
    more = {"ckpt_path": str(first), "trainer": {"max_epochs": 5, "callbacks": [callback]}}
    Path("more.yaml").write_text(yaml.safe_dump(more))
    resumed = run("fit", "-cmore.yaml", "--trainer.accumulate_grad_batches=1")
    assert (resumed.max_epochs, resumed.accumulate_grad_batches) == (5, 1)
    (checkpoint,) = (each for each in resumed.checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    assert (checkpoint.monitor, checkpoint._every_n_train_steps) == ("val/loss", 0)  # nothing of the stored one


CALLBACKS: list[tuple[list[str], list[int | None]]] = [
    (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"], [2, None]),
    (["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"], [None]),
    (["--trainer.callbacks.every_n_train_steps=3"], [3]),
    (["--trainer.callbacks=ModelCheckpoint"], [0]),
]


def test_callbacks_are_added_replaced_or_refined(first: Path, subtests: pytest.Subtests) -> None:
    for flags, callbacks in CALLBACKS:
        with subtests.test(flags=flags):
            resumed = run("fit", "--ckpt_path", str(first), *flags)
            kinds = (ModelCheckpoint, EarlyStopping)
            mine = [each for each in resumed.callbacks if isinstance(each, kinds)]  # type: ignore[attr-defined]
            intervals = [getattr(each, "_every_n_train_steps", None) for each in mine]
            assert all(each in intervals for each in callbacks)
            assert (2 in intervals) == (2 in callbacks)  # the callback of the stored run


def test_another_learning_rate_takes_effect_and_is_logged(first: Path, caplog: pytest.LogCaptureFixture) -> None:
    run("fit", "--ckpt_path", str(first), "--model.lr=0.5", "--trainer.default_root_dir=runs")
    (optimizer,) = stored(saved(1)[-1])["optimizer_states"]
    assert optimizer["param_groups"][0]["lr"] == 0.5
    assert "The resumed fit differs from the previous run: `lr` from 0.25 to 0.5." in caplog.messages


@pytest.mark.parametrize("flags", [[], ["--exact_resume=false"]])
def test_so_it_does_for_any_module(flags: list[str]) -> None:
    run("fit", PLAIN, LABELLED, *QUIET, *SETTINGS, *STEPS, *flags)
    checkpoint = stored(saved(0)[0])
    checkpoint["lightning_sparsegrad_optimizers"][0]["groups"][0]["lr"] = 7.0  # as if the code had changed
    torch.save(checkpoint, "changed.ckpt")
    resumed = run("fit", "--ckpt_path=changed.ckpt", *flags)
    assert resumed.optimizers[0].param_groups[0]["lr"] == 0.1


def test_a_switch_is_no_seed() -> None:
    for seed, other in ((0, False), (1, True)):
        stored = StoredRun(Path("last.ckpt"), {"seed_everything": seed}, resumes_exactly=True)
        require_same_seed({"seed_everything": seed, "exact_resume": True}, stored)
        with pytest.raises(ConfigurationError, match=f"Parameter `seed_everything` should be {seed}, .* = {other}"):
            require_same_seed({"seed_everything": other, "exact_resume": True}, stored)


def test_another_seed_is_refused_where_it_would_have_no_effect(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "fit", "--ckpt_path", str(first), "--seed_everything=6")
    assert "Parameter `seed_everything` should be 5, as in the run that is resumed: an exact resume restores " in line
    assert "To change the seed, add `--exact_resume=false`. Found `seed_everything = 6`." in line
    resumed = run("fit", "--ckpt_path", str(first), "--seed_everything=6", "--exact_resume=false")
    assert resumed.global_step == 8


def test_an_evaluation_takes_the_precision_alone_of_the_trainers_arguments(first: Path) -> None:
    path = change(first, trainer__precision="bf16-true", trainer__max_epochs=3, trainer__logger=False)
    trainer = run("test", "--ckpt_path", path, *QUIET)
    assert trainer.precision == "bf16-true"
    assert (trainer.max_epochs, trainer.accumulate_grad_batches) == (None, 1)
    assert Path(str(trainer.log_dir)) == Path("lightning_logs/version_0").absolute()
    assert run("test", "--ckpt_path", path, "--trainer.precision=32", *QUIET).precision == "32-true"


# ------------------------------------------------------------ configs in checkpoints
NO_CONFIG: list[tuple[dict[str, Any], str]] = [
    ({"trainer__max_epochs": "many"}, "`max_epochs`"),
    ({"trainer__callbacks": [{"class_path": "os.system", "init_args": {"command": "touch run"}}]}, "os.system"),
    ({"trainer__logger": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "run"]}}}, "Popen"),
    ({"seed_everything": "many"}, "many"),
    ({"exact_resume": [1]}, "exact_resume"),
    ({"trainer": 3}, ""),
]


def test_a_config_that_is_none_is_refused(
    first: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for config, problem in NO_CONFIG:
        with subtests.test(config=config):
            path = change(first, **config)
            if problem:
                assert problem in refused(capsys, "fit", "--ckpt_path", path)
            else:  # ignored
                run("fit", "--ckpt_path", path, "--trainer.max_epochs=4", *QUIET)
            assert not Path("run").exists()


def test_a_callback_that_is_gone_is_named_unless_it_is_replaced(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = change(first, trainer__callbacks=[{"class_path": "gone.Callback"}])
    line = refused(capsys, "fit", "--ckpt_path", path)
    assert "Found no `gone.Callback`, used by `trainer.callbacks`: make it importable, or give --trainer." in line
    assert run("fit", "--ckpt_path", path, "--trainer.callbacks=null").global_step == 8
    Path("none.yaml").write_text("trainer: {callbacks: null}")
    assert run("fit", "--ckpt_path", path, "--config=none.yaml").global_step == 8


def test_what_is_no_option_is_left_out_with_a_warning(first: Path) -> None:
    path = change(first, trainer__of_another_version=1, mine={"a": 1}, trainer__unset=None)
    with pytest.warns(UserWarning, match=r"`changed.ckpt` stores `(mine|trainer.of_another_version)`") as warned:
        assert run("fit", "--ckpt_path", path).global_step == 8
    assert len([warning for warning in warned if "not an option" in str(warning.message)]) == 2


def test_a_checkpoint_of_the_first_release_resumes_as_it_did(first: Path) -> None:
    checkpoint = stored(first)
    checkpoint[CONFIG] = {key: checkpoint[CONFIG][key] for key in ("model", "data")}
    for key in ("lightning_sparsegrad_optimizers", "lightning_sparsegrad_folder"):
        del checkpoint[key]
    torch.save(checkpoint, "old.ckpt")
    resumed = run("fit", "--ckpt_path=old.ckpt", *SETTINGS, *QUIET, "--trainer.logger=false")
    assert resumed.global_step == 8
    weight = stored(saved(0)[-1])["state_dict"]["layer.weight"]
    assert torch.equal(resumed.model.state_dict()["layer.weight"], weight)  # type: ignore[union-attr]


class Filed(Reader):
    """Model that reads a file."""

    def __init__(self, num_labels: int, words: str) -> None:
        from lightning_sparsegrad import Identity

        Path(words).read_text()
        super().__init__(num_labels, Identity())


def test_an_error_names_the_folder_where_relative_paths_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words.txt").touch()
    run("fit", f"--model={__name__}.Filed", "--model.words=words.txt", LABELLED, *QUIET, *SETTINGS, *STEPS)
    Path("other").mkdir()
    monkeypatch.chdir("other")
    path = min(Path("../runs").rglob("*.ckpt"))
    line = refused(capsys, "test", "--ckpt_path", str(path))
    assert f"Relative paths in `{path}` start in `{tmp_path}`: run the command there, or give another path " in line
    assert "another path for `words.txt`." in line
    Path("words.txt").touch()
    run("test", "--ckpt_path", str(path), *QUIET)


def test_a_run_of_a_fixed_version_is_resumed_beside_it() -> None:
    csv = '{"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "version": "fixed"}}'
    run(*FIT, *SETTINGS, *STEPS, f"--trainer.logger={csv}", "--trainer.log_every_n_steps=1")
    folder = Path("runs/lightning_logs/fixed")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run("fit", "--ckpt_path", str(min(folder.rglob("*.ckpt"))))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert Path("runs/lightning_logs/version_0/config.yaml").is_file()


OLD_NAMES = pytest.mark.filterwarnings("ignore:.*the old name will be removed in 0.3:DeprecationWarning")


@OLD_NAMES
def test_the_result_of_a_study_is_left_as_it_is(first: Path) -> None:
    Path("study").mkdir()
    Path("study", "result.json").write_text("{}")
    for module in ("studies._recorder", "studies.recorder"):  # of today, and of 0.1
        recorder = {"class_path": f"lightning_sparsegrad.{module}.RunRecorder", "init_args": {"folder": "study"}}
        assert run("fit", "--ckpt_path", change(first, trainer__callbacks=[recorder])).global_step == 8
        assert Path("study", "result.json").read_text() == "{}"


@OLD_NAMES
def test_a_checkpoint_of_0_1_names_classes_by_its_own_modules(first: Path) -> None:
    model = stored(first)[CONFIG]["model"]
    drop = {"class_path": "lightning_sparsegrad.transforms.grad_drop.GradDrop", "init_args": {"rate": 0.5}}
    model["init_args"]["gradient_transform"] = drop
    exact = {"class_path": "lightning_sparsegrad.callbacks.exact_resume.ExactResume"}
    path = change(first, model=model, trainer__callbacks=[exact], exact_resume=False)
    trainer = run("fit", "--ckpt_path", path)
    assert trainer.global_step == 8
    assert repr(trainer.lightning_module.gradient_transform) == repr(GradDrop(0.5))
    assert [type(each) for each in trainer.callbacks].count(ExactResume) == 1  # type: ignore[attr-defined]
