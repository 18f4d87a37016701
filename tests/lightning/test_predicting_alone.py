"""A checkpoint predicts, and is tested, without the data it was trained on."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sparsegrad import (
    ConfigurationError,
    ExtractiveQuestionAnswering,
    Identity,
    PredictionWriter,
    SequenceClassification,
    SparseGradCLI,
    TextDataModule,
    TokenClassification,
    WordsDataModule,
)
from lightning_sparsegrad.main import main
from lightning_sparsegrad.resume._checkpoints import LABEL_NAMES, names_in
from tests import hub

from .tasks import trainer

WORDS = hub.KEYS[:6]
TEXTS = [" ".join(WORDS[index:] + WORDS[:index]) for index in range(6)]
QUICK = [
    *("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]
FIT = [*QUICK, "--trainer.max_steps=1", "--seed_everything=0", "--model.gradient_transform=Identity"]
FIT += ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=kept", "--data.batch_size=3"]

AGAIN = [*QUICK, "--trainer.enable_checkpointing=false"]

Rows = Mapping[str, list[Any]]
CLASSES: Rows = {"text": TEXTS, "label": ["bad", "good", "fair"] * 2}
NUMBERS: Rows = {"text": TEXTS, "label": [0.5, 1.5, 2.5] * 2}
TAGS: Rows = {"words": [text.split() for text in TEXTS], "tags": [["O", "B-X", "I-X"] * 2] * 6}
GRADES: Rows = {"query": TEXTS[:1] * 3 + TEXTS[1:2] * 3, "text": TEXTS, "label": [0, 1, 2] * 2}
ANSWERS: Rows = {
    "question": TEXTS,
    "context": TEXTS,
    "answers": [{"text": [text.split()[0]], "answer_start": [0]} for text in TEXTS],
}
TASKS: dict[str, tuple[str, str, Rows, str, list[str]]] = {
    "classes": ("SequenceClassification", "TextDataModule", CLASSES, "label", []),
    "numbers": ("SequenceClassification", "TextDataModule", NUMBERS, "label", ["--data.validation_fraction=0.5"]),
    "tags": ("TokenClassification", "WordsDataModule", TAGS, "tags", []),
    "grades": ("PointwiseRanking", "RankingsDataModule", GRADES, "label", ["--data.text_columns=[query, text]"]),
    "answers": (
        *("ExtractiveQuestionAnswering", "QuestionsDataModule", ANSWERS, "answers"),
        ["--data.max_length=40", "--data.stride=4", "--data.max_question_length=10"],
    ),
}


# by default
SOME = [each if each in ("classes", "tags") else pytest.param(each, marks=pytest.mark.long) for each in TASKS]


def write(path: str, rows: Rows, *, without: str = "", first: int = 6) -> str:
    columns = [name for name in rows if name != without]
    lines = zip(*(rows[name][:first] for name in columns), strict=True)
    Path(path).write_text("".join(json.dumps(dict(zip(columns, line, strict=True))) + "\n" for line in lines))
    return path


def predictions() -> list[str]:
    (path,) = Path().glob("**/predictions.tsv")
    heading, *rows = csv.reader(path.read_text().splitlines(), delimiter="\t")
    path.unlink()
    assert heading == ["index", "prediction"]
    assert [row[0] for row in rows] == [str(index) for index in range(len(rows))]
    return [prediction for _, prediction in rows]


def keep(name: str) -> None:
    """Keep the only checkpoint under a name, without the callbacks, of which Lightning warns."""
    (path,) = Path("kept").iterdir()
    checkpoint = torch.load(path, weights_only=True)
    path.unlink()
    torch.save({**checkpoint, "callbacks": {}}, name)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return hub.tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> Path:
    """A folder with a checkpoint of each task, and none of the files they were trained on."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        for name, (model, data, rows, _, more) in TASKS.items():
            write("train.jsonl", rows)
            given = [f"--model={model}", f"--data={data}", f"--model.model_name_or_path={encoder}"]
            splits = ["train"] if name == "numbers" else ["train", "validation", "test"]
            files = json.dumps(dict.fromkeys(splits, "train.jsonl"))
            main(["fit", *given, *FIT, f"--data.data_files={files}", *more])
            keep(f"{name}.ckpt")
        Path("train.jsonl").unlink()
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def run(command: str, checkpoint: Path, *more: str) -> SparseGradCLI:
    return SparseGradCLI(args=[command, "--ckpt_path", str(checkpoint), *AGAIN, *more])


@pytest.mark.parametrize("task", SOME)
def test_rows_without_labels_are_predicted_in_their_order(task: str, trained: Path) -> None:
    *_, rows, column, _ = TASKS[task]
    write("new.jsonl", rows, without=column)
    file = ".predict=new.jsonl" if task == "classes" else "={predict: new.jsonl}"  # two ways to say it
    run("predict", trained / f"{task}.ckpt", f"--data.data_files{file}")
    results = predictions()
    assert len(results) == len(TEXTS)
    if task == "classes":
        assert set(results) <= {"bad", "good", "fair"}
    if task == "tags":
        assert {tag for row in results for tag in row.split()} <= {"O", "B-X", "I-X"}
        assert [len(row.split()) for row in results] == [len(WORDS)] * 6
    if task == "numbers":
        assert all(abs(float(value)) < 9 for value in results)


@pytest.mark.parametrize("task", SOME)
def test_rows_with_some_of_the_labels_are_measured(task: str, trained: Path) -> None:
    *_, rows, _, _ = TASKS[task]
    command, split = ("validate", "validation") if task in ("numbers", "tags") else ("test", "test")
    write("new.jsonl", rows, first=2 if task == "numbers" else 1)  # of a class alone
    cli = run(command, trained / f"{task}.ckpt", f"--data.data_files={{{split}: new.jsonl}}")
    assert cli.model.trained_names == names_in(torch.load(trained / f"{task}.ckpt", weights_only=True))
    assert f"{command.removesuffix('idate')}/loss" in cli.trainer.callback_metrics


@pytest.mark.parametrize(("task", "column"), [("classes", "label"), ("tags", "tags")])
def test_a_label_that_the_model_does_not_know_is_refused(
    task: str, column: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, rows, _, _ = TASKS[task]
    unseen = ["maybe"] if task == "classes" else [["O", "B-Y", *["O"] * 4]]
    write("new.jsonl", {**rows, column: unseen}, first=1)
    arguments = ["test", "--ckpt_path", str(trained / f"{task}.ckpt"), *AGAIN, "--data.data_files={test: new.jsonl}"]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"Labels in column `{column}` of split `test` should be among" in line
    assert "unless `label_names` lists more" in line


def test_rows_may_come_from_a_folder_or_another_kind_of_data(trained: Path) -> None:
    Path("folder").mkdir()
    write("folder/predict.jsonl", CLASSES, without="label")
    run("predict", trained / "classes.ckpt", "--data.dataset=folder")
    expected = predictions()
    run("predict", trained / "classes.ckpt", "--data.data_files={predict: folder/predict.jsonl}")
    assert predictions() == expected
    Path("sentences.csv").write_text("sentence\n" + "".join(f"{text}\n" for text in TEXTS))
    other = ["--data=TextDataModule", "--data.text_columns=sentence", "--data.data_files={predict: sentences.csv}"]
    run("predict", trained / "classes.ckpt", *other)
    assert predictions() == expected


def test_a_checkpoint_trained_on_a_folder_predicts_a_file(encoder: str) -> None:
    Path("folder").mkdir()
    for split in ("train", "dev"):
        write(f"folder/{split}.jsonl", CLASSES)
    given = ["--model=SequenceClassification", "--data=TextDataModule", f"--model.model_name_or_path={encoder}"]
    splits = "--data.splits={train: train, validation: train}"
    main(["fit", *given, *FIT, "--data.dataset=folder", splits])
    keep("a.ckpt")
    for old in Path("folder").iterdir():
        old.unlink()
    write("new.jsonl", CLASSES, without="label")
    run("predict", Path("a.ckpt"), "--data.data_files={predict: new.jsonl}")
    assert len(predictions()) == len(TEXTS)


def test_names_that_are_given_win_and_are_compared(trained: Path) -> None:
    write("new.jsonl", CLASSES, without="label")
    flag = "--data.data_files={predict: new.jsonl}"
    run("predict", trained / "classes.ckpt", flag, "--data.label_names=[bad, fair, good]")
    assert len(predictions()) == len(TEXTS)
    with pytest.raises(ConfigurationError, match=r"in the same order: `bad`, `fair`, `good`\. Found `good`, "):
        run("predict", trained / "classes.ckpt", flag, "--data.label_names=[good, fair, bad]")


def test_all_rows_are_predicted_whatever_the_trial_kept(trained: Path) -> None:
    write("new.jsonl", CLASSES, without="label")
    run("predict", trained / "classes.ckpt", "--data.data_files={predict: new.jsonl}", "--data.max_samples=2")
    assert len(predictions()) == len(TEXTS)


def test_a_fit_still_needs_its_files(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--ckpt_path", str(trained / "classes.ckpt"), *AGAIN, "--trainer.max_steps=2"])
    assert "Data files should exist. Found `data_files.train = 'train.jsonl'`." in capsys.readouterr().err


def test_a_model_that_was_moved_is_named(trained: Path, encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("new.jsonl", CLASSES, without="label")
    given = ["--data.data_files={predict: new.jsonl}", "--model.model_name_or_path=./gone"]
    with pytest.raises(SystemExit):
        main(["predict", "--ckpt_path", str(trained / "classes.ckpt"), *AGAIN, *given])
    line = capsys.readouterr().err.splitlines()[-1]
    assert "Found `./gone`: " in line
    assert "give their present folder as `--model.model_name_or_path`." in line


def test_checkpoints_of_before_tell_the_same(trained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(trained / "numbers.ckpt", weights_only=True)
    assert checkpoint.pop(LABEL_NAMES) == []
    torch.save(checkpoint, "old.ckpt")
    write("new.jsonl", NUMBERS, without="label")
    run("predict", tmp_path / "old.ckpt", "--data.data_files={predict: new.jsonl}")
    assert len(predictions()) == len(TEXTS)


@pytest.mark.parametrize("way", ["ckpt_path", "load_from_checkpoint"])
def test_without_the_command_line(way: str, trained: Path, encoder: str) -> None:
    path = str(trained / "classes.ckpt")
    task, given = SequenceClassification(encoder, 3, Identity()), path
    if way == "load_from_checkpoint":
        task, given = SequenceClassification.load_from_checkpoint(path), None  # type: ignore[assignment]
    write("new.jsonl", CLASSES, without="label")
    write("one.jsonl", CLASSES, first=1)
    data = TextDataModule(data_files={"train": "gone.csv", "predict": "new.jsonl", "test": "one.jsonl"})
    (results,) = trainer().test(task, data, ckpt_path=given, verbose=False)
    logits = task.eval()(next(iter(data.test_dataloader()))).logits
    assert data.dataset("test")["labels"][:] == [0]  # of `bad`, `fair`, `good`
    assert results["test/accuracy"] == float(logits.argmax(-1) == 0)
    trainer(callbacks=[PredictionWriter("out")]).predict(task, data, ckpt_path=given)
    assert set(predictions()) <= {"bad", "good", "fair"}


def test_some_of_the_labels_are_read_as_those_of_the_checkpoint_that_is_restored(trained: Path, encoder: str) -> None:
    write("two.jsonl", {"text": TEXTS[:2], "label": ["fair", "good"]}, first=2)
    data = TextDataModule(data_files={"test": "two.jsonl"}, tokenizer=encoder)
    task = SequenceClassification(encoder, 3, Identity())
    assert data.dataset("test")["labels"][:] == [0, 1]  # what it looks like by itself
    trainer().test(task, data, ckpt_path=str(trained / "classes.ckpt"), verbose=False)
    assert data.dataset("test")["labels"][:] == [1, 2]


@pytest.mark.long
def test_a_checkpoint_tells_that_questions_may_have_no_answer(
    encoder: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ExtractiveQuestionAnswering.forward

    def of_certainty(task: Any, batch: Any) -> Any:
        """Add to the logits of the first token what a model learns of questions without an answer."""
        output = forward(task, batch)
        output.start_logits = output.start_logits + 99 * torch.nn.functional.one_hot(
            torch.tensor(0), output.start_logits.shape[1]
        )
        return output

    monkeypatch.setattr(ExtractiveQuestionAnswering, "forward", of_certainty)
    none: list[dict[str, Any]] = [{"text": [], "answer_start": []}] * 3
    write("train.jsonl", {**ANSWERS, "answers": [*ANSWERS["answers"][:3], *none]})
    model, data, *_, more = TASKS["answers"]
    given = [f"--model={model}", f"--data={data}", f"--model.model_name_or_path={encoder}", *FIT, *more]
    main(["fit", *given, "--data.data_files={train: train.jsonl, validation: train.jsonl}"])
    keep("a.ckpt")
    write("new.jsonl", ANSWERS, without="answers")
    flag = "--data.data_files={predict: new.jsonl}"
    run("predict", Path("a.ckpt"), flag)
    assert predictions() == [""] * 6
    run("predict", Path("a.ckpt"), flag, "--model.null_threshold=200")
    assert all(predictions())
    run("predict", trained / "answers.ckpt", flag)  # of a checkpoint that knows none such
    assert all(predictions())
    tested = run("test", Path("a.ckpt"), "--data.data_files={test: train.jsonl}")
    metrics = tested.trainer.callback_metrics
    assert metrics["test/answer_exact_match"] == metrics["test/answer_f1"] == 0.5


def test_numbers_stay_numbers_where_all_of_them_are_whole(trained: Path) -> None:
    Path("new.csv").write_text(f"text,label\n{TEXTS[0]},1\n{TEXTS[1]},2\n")
    cli = run("test", trained / "numbers.ckpt", "--data.data_files={test: new.csv}")
    assert cli.datamodule.dataset("test")["labels"][:] == [1.0, 2.0]
    Path("new.csv").write_text(f"text,label\n{TEXTS[0]},good\n")
    with pytest.raises(ConfigurationError, match=r"should be finite numbers .* Found `'good'`"):
        run("test", trained / "numbers.ckpt", "--data.data_files={test: new.csv}")


def test_words_alone_in_a_file_of_the_shared_tasks(trained: Path) -> None:
    Path("new.conll").write_text(f"{WORDS[0]}\n{WORDS[1]}\n\n{WORDS[2]}\n")
    task = TokenClassification.load_from_checkpoint(trained / "tags.ckpt")
    data = WordsDataModule(data_files={"predict": "new.conll"})
    trainer(callbacks=[PredictionWriter("out")]).predict(task, data)
    assert [len(row.split()) for row in predictions()] == [2, 1]
