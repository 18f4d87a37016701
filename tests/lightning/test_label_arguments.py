"""Arguments of a model that the labels of the data determine: in checkpoints, and refused where two sources differ."""

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_sparsegrad import (
    ConfigurationError,
    ExtractiveQuestionAnswering,
    Identity,
    PointwiseRanking,
    SequenceClassification,
    SparseGradCLI,
    TokenClassification,
)
from lightning_sparsegrad.data import TextDataModule, WordsDataModule
from lightning_sparsegrad.modules import TransformerTask
from tests import hub
from tests.cases import cases

from .tasks import some_long, trainer

CONFIGS = Path(__file__).parents[2] / "configs" / "xglue"
TASKS: dict[str, type[TransformerTask]] = {
    "xnli": SequenceClassification,
    "ner": TokenClassification,
    "mlqa": ExtractiveQuestionAnswering,
    "wpr": PointwiseRanking,
}
QUICK = [
    *("--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"),
    *(
        "--trainer.enable_model_summary=false",
        "--data.batch_size=3",
        "--data.languages=[en,de]",
        "--trainer.callbacks=null",
    ),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return hub.tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def fitted(task: str, encoder: str, *more: str) -> tuple[SparseGradCLI, str]:
    """Fit a task for a step, and return the run and its checkpoint."""
    data = hub.write_xglue(Path("data").absolute(), task, rows=6)
    given = [f"--config={CONFIGS / task}.yaml", f"--data.dataset={data}", f"--model.model_name_or_path={encoder}"]
    cli = SparseGradCLI(args=["fit", *given, *QUICK, "--trainer.max_steps=1", *more])
    (path,) = Path("checkpoints").iterdir()
    return cli, str(path)


@pytest.mark.parametrize("task", some_long(TASKS, ["ner", "mlqa", "wpr"]))
def test_a_checkpoint_of_the_command_line_loads_and_evaluates(task: str, encoder: str) -> None:
    cli, path = fitted(task, encoder)
    loaded = TASKS[task].load_from_checkpoint(path)
    weights = cli.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    assert repr(loaded.gradient_transform) == repr(cli.model.gradient_transform)
    tested = SparseGradCLI(args=["test", "--ckpt_path", path, *QUICK])
    assert {"test/loss/en", "test/loss/de"} <= set(tested.trainer.callback_metrics)


def write(path: str, labels: list[str]) -> str:
    rows = "".join(f"{word},{label}\n" for word, label in zip(cycle(["sun", "rain"]), labels, strict=False))
    Path(path).write_text(f"text,label\n{rows}")
    return path


def data_of(labels: list[str], encoder: str, **kwargs: Any) -> TextDataModule:
    path = write(f"{'-'.join(labels)}.csv", labels)
    return TextDataModule(data_files=dict.fromkeys(("train", "validation", "test"), path), tokenizer=encoder, **kwargs)


@pytest.fixture
def checkpoint(encoder: str) -> None:
    fit = trainer(max_steps=1)
    fit.fit(SequenceClassification(encoder, 2, Identity()), datamodule=data_of(["bad", "good"], encoder))
    fit.save_checkpoint("a.ckpt")


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(
    ("run", "way"),
    [
        ("validate", "ckpt_path"),
        ("predict", "load_from_checkpoint"),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in [("test", "ckpt_path"), ("predict", "ckpt_path"), ("validate", "load_from_checkpoint")]
        ),
    ],
)
def test_a_checkpoint_is_refused_for_data_with_other_labels(run: str, way: str, encoder: str) -> None:
    def evaluated(data: TextDataModule) -> Trainer:
        again, path = trainer(), None
        task = SequenceClassification(encoder, 2, Identity())
        if way == "ckpt_path":
            path = "a.ckpt"
        else:
            task = SequenceClassification.load_from_checkpoint("a.ckpt", gradient_transform=Identity())
        getattr(again, run)(task, datamodule=data, ckpt_path=path)
        return again

    message = r"labels that the model was trained on, in the same order: `bad`, `good`\. Found `good`, `bad`\."
    with pytest.raises(ConfigurationError, match=message):
        evaluated(data_of(["bad", "good"], encoder, label_names=["good", "bad"]))
    assert evaluated(data_of(["good", "bad"], encoder)).state.finished
    assert evaluated(data_of(["1", "0"], encoder)).state.finished  # the data have no names
    if run != "predict":  # which looks at no labels
        with pytest.raises(ConfigurationError, match=r"should be integers from 0 to 1, .* Found `2`\."):
            evaluated(data_of(["1", "2"], encoder))


@cases(
    ("labels", "names", "is_refused"),
    [
        (["00", "01"], ["0", "1"], False),  # as 0.1 named the classes of these
        (["True", "False"], ["0", "1"], False),
        (["1", "2"], ["0", "1"], True),
        (["1", "2"], ["1", "2"], False),
    ],
)
def test_ids_are_not_taken_for_other_numbers(
    labels: list[str], names: list[str], is_refused: bool, encoder: str
) -> None:
    run = trainer(max_steps=1)
    run.fit(SequenceClassification(encoder, 2, Identity()), datamodule=data_of(labels, encoder))
    run.save_checkpoint("a.ckpt")
    stored = torch.load("a.ckpt", weights_only=True)
    assert stored["lightning_sparsegrad_label_names"] == sorted(labels)
    torch.save({**stored, "lightning_sparsegrad_label_names": names}, "a.ckpt")
    again, task = trainer(), SequenceClassification(encoder, 2, Identity())
    if is_refused:
        with pytest.raises(ConfigurationError, match=r"`0`, `1`\. Found `1`, `2`\."):
            again.validate(task, datamodule=data_of(labels, encoder), ckpt_path="a.ckpt")
    else:
        again.validate(task, datamodule=data_of(labels, encoder), ckpt_path="a.ckpt", verbose=False)


@cases(
    ("labels", "num_labels", "problem", "message"),
    [
        (
            ["1", "2", "3"],
            1,
            "classification",
            r"of the data: 3\. Found `num_labels = 1`\. Or set `problem='regression'` of the data\.$",
        ),
        (["good", "bad"], 1, None, r"should be finite numbers .* Found `'good'`, `'bad'`\."),
        (
            ["1.5", "2", "3"],
            3,
            None,
            r"of the data: 1\. Found `num_labels = 3`\. Or set `problem='classification",
        ),
        (["1", "2", "3"], 2, None, r"should be that of the data: 3\. Found `num_labels = 2`\.$"),
        (["1", "2", "3"], 1, "regression", None),
        (["1", "2", "3"], 1, None, None),
        (["0", "1"], 1, None, None),
        (["1.5", "2", "3"], 3, "classification", None),
        (["1", "2", "3"], 4, None, None),
    ],
)
def test_a_model_learns_what_the_data_hold(
    labels: list[str], num_labels: int, problem: Any, message: str | None, encoder: str
) -> None:
    task, run = SequenceClassification(encoder, num_labels, Identity()), trainer(max_steps=1)
    data = data_of(labels, encoder, problem=problem)
    if message is None:
        run.fit(task, datamodule=data)
        assert ("val/mse" in run.callback_metrics) == (num_labels == 1)
    else:
        with pytest.raises(ConfigurationError, match=message):
            run.fit(task, datamodule=data)


COMMAND = [
    *("fit", "--model=SequenceClassification", "--model.gradient_transform=Identity", "--data=TextDataModule"),
    *("--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--trainer.max_steps=1"),
]


def test_the_command_line_says_how_to_ask_for_a_regression(encoder: str) -> None:
    path = write("a.csv", ["90", "15", "55"])
    files = f"--data.data_files={{train: {path}, validation: {path}, predict: {path}}}"
    given = [*COMMAND, f"--model.model_name_or_path={encoder}", files]
    with pytest.raises(
        ConfigurationError, match=r"of the data: 3\. Found .* = 1`\. For regression: `--data.problem=regr"
    ):
        SparseGradCLI(args=[*given, "--model.num_labels=1", "--data.problem=classification"])
    with pytest.raises(
        ConfigurationError, match=r"of the data: 1\. Found .* = 3`\. For classes: `--data.problem=classific"
    ):
        SparseGradCLI(args=[*given, "--data.problem=regression", "--model.num_labels=3"])
    cli = SparseGradCLI(args=[*given, "--data.problem=regression", "--model.num_labels=1"])
    assert "val/mse" in cli.trainer.callback_metrics
    SparseGradCLI(args=["predict", "--trainer.logger=false", "--ckpt_path", *map(str, Path("checkpoints").iterdir())])
    (predictions,) = Path().rglob("predictions.tsv")
    assert [float(line.split("\t")[1]) for line in predictions.read_text().splitlines()[1:]]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_one_output_is_a_regression_of_whole_numbers(encoder: str) -> None:
    path = write("a.csv", ["90", "15", "55"])
    files = f"--data.data_files={{train: {path}, validation: {path}, predict: {path}}}"
    SparseGradCLI(args=[*COMMAND, f"--model.model_name_or_path={encoder}", files, "--model.num_labels=1"])
    (checkpoint,) = map(str, Path("checkpoints").iterdir())
    cli = SparseGradCLI(
        args=["fit", "--ckpt_path", checkpoint, "--trainer.max_steps=2", "--trainer.default_root_dir=b"]
    )
    assert "val/mse" in cli.trainer.callback_metrics
    Path(path).rename("new.csv")
    alone = ["--ckpt_path", checkpoint, "--data.data_files={test: new.csv}", "--trainer.logger=false"]
    assert "test/mse" in SparseGradCLI(args=["test", *alone]).trainer.callback_metrics
    with pytest.raises(ConfigurationError, match=r"trained on: regression\. Found `problem = 'classification'`\."):
        SparseGradCLI(args=["test", *alone, "--data.problem=classification"])


def test_a_checkpoint_of_classes_predicts_no_numbers(encoder: str) -> None:
    path = write("a.csv", ["90", "15", "55"])
    files = f"--data.data_files={{train: {path}, validation: {path}, predict: {path}}}"
    SparseGradCLI(args=[*COMMAND, f"--model.model_name_or_path={encoder}", files])
    (checkpoint,) = map(str, Path("checkpoints").iterdir())
    with pytest.raises(ConfigurationError, match=r"trained on: classification\. Found `problem = 'regression'`\."):
        SparseGradCLI(args=["predict", "--ckpt_path", checkpoint, "--data.problem=regression"])


def test_weights_alone_predict(encoder: str) -> None:
    path = write("a.csv", ["7", "5"])
    files = f"--data.data_files={{train: {path}, validation: {path}}}"
    callback = (
        "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {save_weights_only: true, dirpath: weights}}"
    )
    SparseGradCLI(args=[*COMMAND, f"--model.model_name_or_path={encoder}", files, callback])
    (checkpoint,) = map(str, Path("weights").iterdir())
    Path(path).rename("new.csv")
    given = ["--ckpt_path", checkpoint, "--data.data_files={predict: new.csv}", "--trainer.logger=false"]
    SparseGradCLI(args=["predict", *given])
    (predictions,) = Path().rglob("predictions.tsv")
    assert {line.split("\t")[1] for line in predictions.read_text().splitlines()[1:]} <= {"5", "7"}


def test_names_on_the_command_line_may_be_numbers(encoder: str) -> None:
    path = write("a.csv", ["90", "15", "55"])
    files = f"--data.data_files={{train: {path}, validation: {path}, predict: {path}}}"
    given = [*COMMAND, f"--model.model_name_or_path={encoder}", files, "--data.label_names=[90, 55, 15]"]
    cli = SparseGradCLI(args=given)
    assert cli.model.num_labels == 3
    assert cli.datamodule.label_names == ["90", "55", "15"]
    SparseGradCLI(args=["predict", "--trainer.logger=false", "--ckpt_path", *map(str, Path("checkpoints").iterdir())])
    (predictions,) = Path().rglob("predictions.tsv")
    assert {line.split("\t")[1] for line in predictions.read_text().splitlines()[1:]} <= {"90", "55", "15"}


def test_a_fit_on_other_labels_makes_them_its_own(encoder: str) -> None:
    task = SequenceClassification(encoder, 2, Identity())
    for labels in (["bad", "good"], ["no", "yes"]):
        run = trainer(max_steps=1)
        run.fit(task, datamodule=data_of(labels, encoder))
        run.save_checkpoint(f"{labels[0]}.ckpt")
        trainer().validate(task, datamodule=data_of(labels, encoder), verbose=False)
    assert torch.load("no.ckpt", weights_only=True)["lightning_sparsegrad_label_names"] == ["no", "yes"]
    with pytest.raises(ConfigurationError, match=r"`bad`, `good`\. Found `no`, `yes`"):
        trainer(max_steps=2).fit(task, datamodule=data_of(["no", "yes"], encoder), ckpt_path="bad.ckpt")


def test_names_that_a_task_was_given_are_kept_without_a_fit_on_data(encoder: str) -> None:
    task = TokenClassification(encoder, ["O", "B-X"], Identity())
    run = trainer()
    run.strategy.connect(task)
    run.save_checkpoint("a.ckpt")
    path = Path("a.jsonl")
    path.write_text('{"words": ["sun"], "tags": ["B-X"]}\n')
    names = ["B-X", "O"]
    data = WordsDataModule(data_files={"test": str(path)}, tokenizer=encoder, label_names=names)
    with pytest.raises(ConfigurationError, match=r"`O`, `B-X`\. Found `B-X`, `O`\."):
        trainer().test(TokenClassification(encoder, names, Identity()), datamodule=data, ckpt_path="a.ckpt")
