"""Every task of GLUE and XGLUE with its config: fit, validation, test and prediction, against independent numbers."""

import csv
import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lightning.pytorch import Trainer
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as span_f1
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, ndcg_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lightning_sparsegrad import SparseGradCLI
from lightning_sparsegrad.data.glue import GLUE
from lightning_sparsegrad.metrics import AnswerF1
from tests import hub

ROOT = Path(__file__).parents[2] / "configs"
ROWS = 10
QUIET = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.logger=false", "--trainer.num_sanity_val_steps=0"),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return hub.tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


class Runs:
    """Runner of a task's config on the command line, with generated data, in a separate folder."""

    def __init__(self, benchmark: str, task: str, folder: Path, encoder: str) -> None:
        write = hub.write_glue if benchmark == "glue" else hub.write_xglue
        self.data = folder / "data"
        for each in {task, *(("mnli",) if task == "ax" else ())}:
            write(self.data, each, rows=ROWS)
        self.arguments = [
            f"--config={ROOT / benchmark / task}.yaml",
            f"--data.dataset={self.data}",
            f"--model.model_name_or_path={encoder}",
            f"--trainer.default_root_dir={folder / 'run'}",
            "--data.eval_batch_size=4",
            *QUIET,
        ]

    def __call__(self, subcommand: str, *more: str) -> Trainer:
        trainer: Trainer = SparseGradCLI(args=[subcommand, *self.arguments, *more]).trainer
        return trainer

    def rows(self, config: str, split: str) -> Any:
        return Dataset.from_parquet(str(self.data / config / f"{split}-00000-of-00001.parquet"))


@pytest.fixture
def fitted(request: pytest.FixtureRequest, tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fit two steps of a task, and check what a fit promises."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    benchmark, task = request.param
    runs = Runs(benchmark, task, tmp_path, encoder)
    fit = runs("fit", "--trainer.max_steps=2", "--data.batch_size=5", "--model.optimizer.lr=0.01")
    assert fit.global_step == 2
    checkpoint = fit.checkpoint_callback
    assert float(fit.callback_metrics[checkpoint.monitor]) == float(checkpoint.best_model_score)  # type: ignore[union-attr]
    path = checkpoint.best_model_path  # type: ignore[union-attr]
    validated = runs("validate", f"--ckpt_path={path}").callback_metrics
    logged = {name: float(value) for name, value in fit.callback_metrics.items() if name.startswith("val/")}
    assert {name: float(value) for name, value in validated.items()} == pytest.approx(logged, rel=1e-4, nan_ok=True)
    return runs, path, logged


def prediction_in(trainer: Any, name: str) -> Path:
    """Return the one file or folder of a name that the commands of a test wrote, each into a folder of its own."""
    (path,) = Path(trainer.default_root_dir).glob(f"lightning_logs/*/{name}")
    return path


DEFAULT = {"ner"}


def folder_of(benchmark: str) -> list[Any]:
    return [
        pytest.param((benchmark, path.stem), id=path.stem, marks=() if path.stem in DEFAULT else pytest.mark.long)
        for path in sorted((ROOT / benchmark).glob("*.yaml"))
    ]


# ---------------------------------------------------------------- GLUE
def mean_f1(target: Any, preds: Any) -> float:
    return float(f1_score(target, preds, zero_division=0))


OF_GLUE: dict[str, dict[str, Callable[[Any, Any], float]]] = {
    "cola": {"matthews": matthews_corrcoef},
    "mrpc": {"binary_f1": mean_f1, "accuracy": accuracy_score},
    "qqp": {"binary_f1": mean_f1, "accuracy": accuracy_score},
    "stsb": {
        "pearson": lambda target, preds: float(pearsonr(target, preds)[0]),
        "spearman": lambda target, preds: float(spearmanr(target, preds)[0]),
    },
}


@torch.no_grad()
def answers(path: str, encoder: str, rows: Any, columns: tuple[str, ...], labels: int) -> list[Any]:
    """Predict row by row with transformers alone and the weights of a checkpoint."""
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=labels).eval()
    weights = torch.load(path, weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()})
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    outputs = [model(**tokenizer(*(row[c] for c in columns), return_tensors="pt")).logits[0] for row in rows]
    return [float(logits) if labels == 1 else int(logits.argmax()) for logits in outputs]


@pytest.mark.parametrize("fitted", folder_of("glue"), indirect=True)
def test_glue(fitted: Any, encoder: str, request: pytest.FixtureRequest) -> None:
    runs, path, logged = fitted
    task = request.node.callspec.id
    facts = GLUE[task]
    labels = len(facts.labels) or 1
    parts = {"": "validation"}
    if task in ("mnli", "ax"):
        parts = {"/matched": "validation_matched", "/mismatched": "validation_mismatched"}
    expected: dict[str, float] = {}
    for part, split in parts.items():
        rows = runs.rows("mnli" if task == "ax" else task, split)
        preds = answers(path, encoder, rows, facts.text_columns, labels)
        for metric, reference in OF_GLUE.get(task, {"accuracy": accuracy_score}).items():
            expected[f"val/{metric}{part}"] = reference(rows["label"][:], preds)
    assert {name: value for name, value in logged.items() if "loss" not in name and "mean" not in name} == (
        pytest.approx(expected, abs=1e-4, nan_ok=True)
    )
    predicted = prediction_in(runs("predict", f"--ckpt_path={path}"), "predictions")
    for part, file in facts.files.items():
        split = f"test_{part}" if part else "test"
        rows = runs.rows(task, split)
        preds = answers(path, encoder, rows, facts.text_columns, labels)
        text = (predicted / file).read_text()
        written = list(csv.DictReader(text.splitlines(), delimiter="\t"))
        assert [row["index"] for row in written] == [str(index) for index in range(ROWS)]
        submitted = [row["prediction"] for row in written]
        if task == "stsb":
            assert [float(value) for value in submitted] == pytest.approx([min(max(p, 0), 5) for p in preds], abs=2e-3)
        else:
            assert submitted == [facts.labels[p] if facts.writes_names else str(p) for p in preds]
    with pytest.raises(ValueError, match="GLUE's test labels are not published"):
        runs("test", f"--ckpt_path={path}")


# ---------------------------------------------------------------- XGLUE
def read_sentences(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [list(words) for blank, words in groupby(lines, key=lambda line: not line) if not blank]


def of_words(task: str, path: Path, rows: Any) -> dict[str, float]:
    gold = [[hub.TAGS[task][tag] for tag in tags] for tags in rows[task]]
    predicted = read_sentences(path)
    pairs = [(a, b) for one, other in zip(gold, predicted, strict=True) for a, b in zip(one, other, strict=True)]
    scores = {"accuracy": sum(a == b for a, b in pairs) / len(pairs)}
    return scores if task == "pos" else {**scores, "span_f1": float(span_f1(gold, predicted))}


def of_classes(task: str, path: Path, rows: Any) -> dict[str, float]:
    _, label, names = hub.XGLUE[task]
    gold = rows[label] if task in ("paws-x", "qam") else [names[index] for index in rows[label]]
    return {"accuracy": float(accuracy_score(list(map(str, gold)), path.read_text().split("\n")[:-1]))}


def of_rankings(_: str, path: Path, rows: Any) -> dict[str, float]:
    scored = list(zip(rows["query"], rows["relavance_label"], map(float, path.read_text().split()), strict=True))
    groups = [list(rows) for _, rows in groupby(scored, key=lambda row: row[0])]
    scores = [ndcg_score([[g for _, g, _ in rows]], [[s for *_, s in rows]]) for rows in groups if len(rows) > 1]
    return {"ndcg": sum(scores) / len(scores)}


def of_answers(_: str, path: Path, rows: Any) -> dict[str, float]:
    predicted = json.loads(path.read_text(encoding="utf-8"))
    metric = AnswerF1(path.stem)  # itself held to a reference elsewhere
    metric.update([predicted[str(index)] for index in range(len(rows))], [answer["text"] for answer in rows["answers"]])
    return {"answer_f1": float(metric.compute())}


OF_XGLUE = {"ner": of_words, "pos": of_words, "mlqa": of_answers, "wpr": of_rankings}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("fitted", folder_of("xglue"), indirect=True)
def test_xglue(fitted: Any, request: pytest.FixtureRequest) -> None:
    runs, path, logged = fitted
    task = request.node.callspec.id
    tested = {name: float(value) for name, value in runs("test", f"--ckpt_path={path}").callback_metrics.items()}
    trainer = runs("predict", f"--ckpt_path={path}")
    predicted = prediction_in(trainer, "predictions")
    languages = hub.XGLUE_LANGUAGES[task].split()
    by_metric: dict[str, list[float]] = {}
    for language in languages:
        file = predicted / task.replace("-", "").upper() / f"{language}.prediction"
        scores = OF_XGLUE.get(task, of_classes)(task, file, runs.rows(task, f"test.{language}"))
        for metric, score in scores.items():
            assert tested[f"test/{metric}/{language}"] == pytest.approx(score, abs=1e-5), language
            by_metric.setdefault(metric, []).append(score)
    for metric, values in by_metric.items():
        assert tested[f"test/{metric}/mean"] == pytest.approx(sum(values) / len(values), abs=1e-5)
        assert tested[f"test/{metric}/mean_unseen"] == pytest.approx(sum(values[1:]) / len(values[1:]), abs=1e-5)
        assert f"val/{metric}/mean_unseen" in logged
    table = list(csv.reader(prediction_in(trainer, "test.csv").read_text().splitlines()))
    assert table[0] == ["metric", *languages, "mean", "mean_unseen"]
