"""Folders for `transformers`, with which a pipeline predicts the same as the run."""

import json
import shutil
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

from lightning_sparsegrad import (
    ConfigurationError,
    ExtractiveQuestionAnswering,
    Identity,
    PointwiseRanking,
    QuestionsDataModule,
    RankingsDataModule,
    SequenceClassification,
    TextDataModule,
    TokenClassification,
    WordsDataModule,
    export_checkpoint,
)
from lightning_sparsegrad.main import main
from lightning_sparsegrad.modules import TransformerTask
from lightning_sparsegrad.modules._limits import longest_row
from tests import hub
from tests.data.helpers import write
from tests.lightning.tasks import trainer

LENGTH = 12
ROWS = 9
TEXTS = [" ".join(islice(cycle(hub.KEYS[row:] + hub.KEYS[:row]), 1 + 3 * (row % 4))) for row in range(ROWS)]
OTHERS = TEXTS[::-1]
CLASSES = ["no", "perhaps", "yes"]
TAGS = ["O", "B-X", "I-X"]
Made = tuple[TransformerTask, Any]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    hub.tiny_encoder(tmp_path / "base", layers=1)
    shutil.copytree("base", "tokenizer", ignore=shutil.ignore_patterns("config.json", "*.safetensors"))


def files(kind: str = "parquet", **columns: Any) -> dict[str, Any]:
    path = write(Path(f"rows.{kind}"), **columns)
    shared = {"tokenizer": "tokenizer", "max_length": LENGTH, "batch_size": 4}
    return {"data_files": {"train": path, "predict": path}, **shared}


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def classes() -> Made:
    data = TextDataModule(**files(text=TEXTS, label=CLASSES * 3))
    return SequenceClassification("base", 3, Identity(), optimizer=adam), data


def ids() -> Made:
    data = TextDataModule(**files(text=TEXTS, label=[0, 1, 2] * 3))
    return SequenceClassification("base", 3, Identity(), optimizer=adam), data


def pairs() -> Made:
    data = TextDataModule(**files(a=TEXTS, b=OTHERS, label=CLASSES * 3), text_columns=["a", "b"])
    return SequenceClassification("base", 3, Identity()), data


def numbers() -> Made:
    data = TextDataModule(**files(text=TEXTS, label=[0.5, 1.25, -3.0] * 3))
    return SequenceClassification("base", 1, Identity()), data


def words() -> Made:
    tags = [[TAGS[index % 3] for index, _ in enumerate(text.split())] for text in TEXTS]
    data = WordsDataModule(**files(words=[text.split() for text in TEXTS], tags=tags), label_names=TAGS)
    return TokenClassification("base", TAGS, Identity()), data


def grades() -> Made:
    columns = files(query=TEXTS, title=OTHERS, label=[0, 1, 2] * 3)
    return PointwiseRanking("base", 3, Identity()), RankingsDataModule(**columns, text_columns=["query", "title"])


def answers() -> Made:
    given = [{"text": [text.split()[0]], "answer_start": [0]} for text in TEXTS]
    columns = files("jsonl", question=OTHERS, context=TEXTS, answers=given)
    data = QuestionsDataModule(**columns, max_question_length=3, stride=2)
    return ExtractiveQuestionAnswering("base", Identity()), data


def fitted(make: Callable[[], Made]) -> tuple[TransformerTask, Any, list[Any]]:
    """Train a task for a few steps into `a.ckpt`, and return it, its data and its prediction for each row."""
    torch.manual_seed(0)
    task, data = make()
    run = trainer(max_steps=9, max_epochs=3, limit_val_batches=0)
    run.fit(task, data)
    run.save_checkpoint("a.ckpt")
    outputs = trainer().predict(task, data)
    batches = list(data.predict_dataloader())
    return task, data, [row for each in zip(outputs, batches, strict=True) for row in data.decode(*each)]  # type: ignore[arg-type]


def exported() -> str:
    shutil.rmtree("base", ignore_errors=True)  # not needed
    export_checkpoint("a.ckpt", "out")
    return "out"


def piped(task: Any, folder: str, **options: Any) -> Any:
    return pipeline(task, folder, **options)


# ---------------------------------------------------------------- what a pipeline finds
@pytest.mark.parametrize("make", [classes, ids])
def test_classes_have_their_names(make: Callable[[], Made]) -> None:
    _, _, predicted = fitted(make)
    answers = piped("text-classification", exported(), truncation=True)(TEXTS)
    assert [each["label"] for each in answers] == predicted
    assert len(set(predicted)) > 1


def test_rows_are_cut_where_the_run_cut_them() -> None:
    _, data, _ = fitted(classes)
    tokenizer = AutoTokenizer.from_pretrained(exported())
    cut = tokenizer(TEXTS, truncation=True)["input_ids"]
    assert cut == [row["input_ids"] for row in data.dataset("predict")]
    assert max(map(len, cut)) == LENGTH


@pytest.mark.parametrize("padding", [0, 1])
def test_rows_are_cut_where_positions_end(padding: int) -> None:
    """The limit also holds if the run had no longer row and the tokenizer has no limit."""
    config = RobertaConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        pad_token_id=padding,
    )
    config.max_position_embeddings = LENGTH + padding + 1
    assert longest_row(RobertaForSequenceClassification(config), 10 * LENGTH) == LENGTH
    assert longest_row(RobertaForSequenceClassification(config), LENGTH - 1) == LENGTH - 1
    settings = json.loads(Path("base/config.json").read_text())
    Path("base/config.json").write_text(json.dumps({**settings, "max_position_embeddings": LENGTH}))
    BertModel(BertConfig.from_pretrained("base")).save_pretrained("base")
    tokenizer = AutoTokenizer.from_pretrained("tokenizer")
    tokenizer.model_max_length = 10**9
    tokenizer.save_pretrained("tokenizer")
    given = {**files(text=["sun", "moon"], label=["a", "b"]), "max_length": 10 * LENGTH}
    given["data_files"]["validation"] = given["data_files"]["train"]
    run = trainer(max_steps=1)
    run.fit(SequenceClassification("base", 2, Identity()), datamodule=TextDataModule(**given))
    run.save_checkpoint("a.ckpt")
    export_checkpoint("a.ckpt", "out")
    assert AutoTokenizer.from_pretrained("out").model_max_length == LENGTH
    (answer,) = pipeline("text-classification", "out", truncation=True)(" ".join(hub.KEYS * 20))
    assert answer["label"] in "ab"


def test_pairs() -> None:
    _, _, predicted = fitted(pairs)
    given = [{"text": one, "text_pair": other} for one, other in zip(TEXTS, OTHERS, strict=True)]
    answers = piped("text-classification", exported(), truncation=True)(given)
    assert [each["label"] for each in answers] == predicted


def test_numbers_are_the_score() -> None:
    _, _, predicted = fitted(numbers)
    answers = piped("text-classification", exported(), truncation=True)(TEXTS)
    assert [each["score"] for each in answers] == pytest.approx(predicted, rel=1e-5)


def test_labels_of_words() -> None:
    _, _, predicted = fitted(words)
    tag = piped("token-classification", exported(), aggregation_strategy="none", ignore_labels=[])
    for text, expected in zip(TEXTS, predicted, strict=True):
        starts = [sum(len(word) + 1 for word in text.split()[:index]) for index, _ in enumerate(text.split())]
        at = {each["start"]: each["entity"] for each in tag(text)}
        assert [at.get(start, "O") for start in starts] == expected
    assert len({tag for row in predicted for tag in row}) > 1


def test_scores_to_rank_by_are_expected_grades() -> None:
    _, _, predicted = fitted(grades)
    given = [{"text": one, "text_pair": other} for one, other in zip(TEXTS, OTHERS, strict=True)]
    answers = piped("text-classification", exported(), truncation=True, top_k=None)(given)
    scores = [sum(int(grade["label"]) * grade["score"] for grade in each) for each in answers]
    assert scores == pytest.approx(predicted, rel=1e-5)


def test_answers() -> None:
    task, data, _ = fitted(answers)
    model: Any = AutoModelForQuestionAnswering.from_pretrained(exported())
    original: Any = task.model
    batch = next(iter(data.predict_dataloader()))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        expected, actual = original.eval()(**inputs), model(**inputs)
    assert torch.equal(actual.start_logits, expected.start_logits)
    assert torch.equal(actual.end_logits, expected.end_logits)
    assert AutoTokenizer.from_pretrained("out").model_max_length == LENGTH


def test_the_command_may_be_given_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, predicted = fitted(classes)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    export_checkpoint("../a.ckpt", ".")
    answers = piped("text-classification", ".", truncation=True)(TEXTS)
    assert [each["label"] for each in answers] == predicted


def test_a_model_compiled_in_its_place() -> None:
    task, _ = classes()
    original = task.model.state_dict()
    task.model = torch.compile(task.model, backend="eager")  # type: ignore[assignment]
    run = trainer()
    run.strategy.connect(task)
    run.save_checkpoint("a.ckpt")
    with pytest.warns(UserWarning, match="no names"):
        exported_state = export_checkpoint("a.ckpt", "out").state_dict()
    assert all(torch.equal(value, exported_state[name]) for name, value in original.items())


def test_weights_keep_their_dtype() -> None:
    fitted(classes)
    checkpoint = torch.load("a.ckpt", weights_only=True)
    checkpoint["state_dict"] = {name: value.bfloat16() for name, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, "a.ckpt")
    folder = exported()
    assert json.loads(Path(folder, "config.json").read_text())["dtype"] == "bfloat16"
    assert piped("text-classification", folder).model.dtype == torch.bfloat16


def test_the_model_of_a_loaded_task_has_the_names() -> None:
    fitted(classes)
    task = SequenceClassification.load_from_checkpoint("a.ckpt", gradient_transform=Identity())
    task.model.save_pretrained("plain")
    config = json.loads(Path("plain/config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"}
    assert config["label2id"] == {"no": 0, "perhaps": 1, "yes": 2}


def test_a_checkpoint_written_without_data_is_exported_with_the_model_s_tokenizer() -> None:
    run = trainer()
    run.strategy.connect(TokenClassification("base", TAGS, Identity()))
    run.save_checkpoint("a.ckpt")
    export_checkpoint("a.ckpt", "out")
    config = json.loads(Path("out/config.json").read_text())
    assert config["label2id"] == {"O": 0, "B-X": 1, "I-X": 2}
    assert AutoTokenizer.from_pretrained("out").tokenize("alpha") == AutoTokenizer.from_pretrained("base").tokenize(
        "alpha"
    )


# ---------------------------------------------------------------- checkpoints of release 0.1
def forget(*keys: str) -> None:
    checkpoint = torch.load("a.ckpt", weights_only=True)
    for key in keys:
        del checkpoint[f"lightning_sparsegrad_{key}"]
    torch.save(checkpoint, "a.ckpt")


@pytest.mark.parametrize("make", [classes, words, answers, numbers])
def test_what_an_old_checkpoint_does_not_say_is_read_off_its_base_model(make: Callable[[], Made]) -> None:
    task, data, _ = fitted(make)
    forget("model")
    export_checkpoint("a.ckpt", "out")
    model = type(task.model).from_pretrained("out")
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in task.model.state_dict().items())
    assert model.config.problem_type == task.model.config.problem_type
    if make is not answers and make is not numbers:
        assert list((model.config.id2label or {}).values()) == data.label_names


def test_an_old_checkpoint_without_names_is_exported_with_a_warning() -> None:
    fitted(classes)
    forget("model", "label_names")
    with pytest.warns(UserWarning, match=r"`a.ckpt` has no names of classes"):
        export_checkpoint("a.ckpt", "out")


def test_the_base_model_of_an_old_checkpoint_may_have_moved() -> None:
    fitted(classes)
    forget("model")
    Path("base").rename("moved")
    with pytest.raises(
        ConfigurationError, match=r"Parameter `model_name_or_path` .* Found `model_name_or_path = base`"
    ):
        export_checkpoint("a.ckpt", "out")
    assert not Path("out").exists()
    export_checkpoint("a.ckpt", "out", model_name_or_path="moved")
    assert piped("text-classification", "out")("alpha")[0]["label"] in CLASSES


def test_the_command_line_of_an_old_run_tells_its_tokenizer_and_length(capsys: pytest.CaptureFixture[str]) -> None:
    fit_by_command()
    forget("model")
    main(["export", "--ckpt_path=a.ckpt", "--output=out"])
    assert AutoTokenizer.from_pretrained("out").model_max_length == LENGTH


# ---------------------------------------------------------------- the command
def fit_by_command() -> None:
    write(Path("train.csv"), text=TEXTS, label=CLASSES * 3)
    arguments = ["--model=SequenceClassification", "--model.model_name_or_path=base", "--data=TextDataModule"]
    arguments += ["--model.gradient_transform=Identity", "--data.tokenizer=tokenizer", f"--data.max_length={LENGTH}"]
    arguments += [
        "--data.data_files={train: train.csv}",
        "--trainer.limit_val_batches=0",
        "--trainer.max_steps=1",
        "--trainer.accelerator=cpu",
    ]
    quiet = ["logger", "enable_progress_bar", "enable_model_summary"]
    main(["fit", *arguments, "--seed_everything=0", *(f"--trainer.{name}=false" for name in quiet)])
    (path,) = Path("checkpoints").iterdir()
    path.rename("a.ckpt")


def test_the_command_says_how_to_read_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    fit_by_command()
    shutil.rmtree("base")
    capsys.readouterr()
    main(["export", "--ckpt_path=a.ckpt", "--output=out"])
    output = capsys.readouterr().out
    assert 'transformers.pipeline("text-classification", "out", truncation=True)' in output
    assert piped("text-classification", "out", truncation=True)("alpha")[0]["label"] in CLASSES


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["export", *arguments])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_holds_something_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.ckpt").touch()
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    line = refused(capsys, "--ckpt_path=a.ckpt", "--output=out")
    assert "Parameter `output` should be a folder that is new or empty. Found `output = out`" in line
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]
    assert "which is a file" in refused(capsys, "--ckpt_path=a.ckpt", "--output=out/mine.txt")


def test_a_folder_is_not_left_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(classes)
    Path("out").mkdir()
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", lambda *_, **__: 1 / 0)
    for folder in ("out", "new"):
        with pytest.raises(ZeroDivisionError):
            export_checkpoint("a.ckpt", folder)
    assert not list(Path("out").iterdir())
    assert not Path("new").exists()


def test_what_is_no_checkpoint_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, "b.ckpt")
    torch.save({"weights": {}}, "c.ckpt")
    for path in ("none.ckpt", "base", "a.ckpt", "b.ckpt", "c.ckpt"):
        assert f"Found `ckpt_path = {path}`" in refused(capsys, f"--ckpt_path={path}", "--output=out")
    assert not Path("out").exists()


def test_a_tokenizer_that_is_gone_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(classes)
    Path("tokenizer").rename("moved")
    line = refused(capsys, "--ckpt_path=a.ckpt", "--output=out")
    assert "Parameter `tokenizer`" in line
    assert f"Found `tokenizer = {Path('tokenizer').resolve()}`" in line
    main(["export", "--ckpt_path=a.ckpt", "--output=out", "--tokenizer=moved"])
    assert Path("out/tokenizer.json").exists()


def test_weights_of_another_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(classes)
    checkpoint = torch.load("a.ckpt", weights_only=True)
    checkpoint["state_dict"].pop("model.classifier.bias")
    torch.save(checkpoint, "a.ckpt")
    assert "classifier.bias" in refused(capsys, "--ckpt_path=a.ckpt", "--output=out")
    checkpoint["state_dict"]["model.query.lora_A.default.weight"] = torch.ones(1)
    torch.save(checkpoint, "a.ckpt")
    assert "holds an adapter" in refused(capsys, "--ckpt_path=a.ckpt", "--output=out")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("--ckpt_path", "--output", "--tokenizer", "--model_name_or_path"))


def test_data_of_the_user_s_own_tell_their_tokenizer() -> None:
    class Own(LightningDataModule):
        tokenizer = AutoTokenizer.from_pretrained("tokenizer")

        def train_dataloader(self) -> Any:
            batch = self.tokenizer(TEXTS, padding=True, return_tensors="pt")
            return DataLoader([{**batch, "labels": torch.tensor([0, 1, 2] * 3)}], batch_size=None)  # type: ignore[arg-type]

        val_dataloader = train_dataloader

    run = trainer(max_steps=1, limit_val_batches=0)
    run.fit(SequenceClassification("base", 3, Identity()), Own())
    run.save_checkpoint("a.ckpt")
    shutil.rmtree("base")
    with pytest.warns(UserWarning, match="no names"):
        export_checkpoint("a.ckpt", "out")
    assert AutoTokenizer.from_pretrained("out").tokenize("alpha") == Own.tokenizer.tokenize("alpha")
