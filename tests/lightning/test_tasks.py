"""The tasks other than text classification: words, answers, rankings."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoModelForTokenClassification

from lightning_sparsegrad import (
    ConfigurationError,
    ExtractiveQuestionAnswering,
    Identity,
    PointwiseRanking,
    TokenClassification,
)
from tests.cases import cases

from ..tiny import TEXT, VOCABULARY, build, tiny_bert
from .tasks import trainer

NAMES = ["O", "B-X", "I-X"]
GRADES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    heads = {"tokens": AutoModelForTokenClassification, "answers": AutoModelForQuestionAnswering}
    for name, head in heads.items():
        config = AutoConfig.for_model(
            "bert", **{**TEXT, "num_hidden_layers": 1}, num_labels=3 if name == "tokens" else 2
        )
        build(head.from_config, config).save_pretrained(root / name)  # type: ignore[operator]
    tiny_bert(num_labels=GRADES, num_hidden_layers=1).save_pretrained(root / "grades")  # type: ignore[operator]
    tiny_bert(num_labels=1, num_hidden_layers=1).save_pretrained(root / "scores")  # type: ignore[operator]
    return root


def inputs(rows: int, length: int, *, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def measured(task: Any, batches: list[Any]) -> dict[str, float]:
    run = trainer()
    run.validate(task, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
    return {name: float(value) for name, value in run.callback_metrics.items()}


# ---------------------------------------------------------------- words
def test_words_are_learnt_and_measured_at_their_first_piece(folder: Path) -> None:
    task = TokenClassification(str(folder / "tokens"), NAMES, Identity())
    labels = [torch.tensor([[-100, 1, 2, -100, 0], [-100, 1, -100, -100, -100]]), torch.tensor([[-100, 0, 1, 2, -100]])]
    batches = [{**inputs(len(each), 5, seed=seed), "labels": each} for seed, each in enumerate(labels)]
    actual = measured(task, batches)
    task.eval()
    with torch.no_grad():
        logits = [task.model(**inputs(len(each), 5, seed=seed)).logits for seed, each in enumerate(labels)]
    chosen = torch.cat([each.flatten(0, 1) for each in logits])
    wanted = torch.cat([each.flatten() for each in labels])
    chosen, wanted = chosen[wanted != -100], wanted[wanted != -100]
    assert actual["val/accuracy"] == pytest.approx(float((chosen.argmax(-1) == wanted).float().mean()))
    losses = -chosen.log_softmax(-1)[torch.arange(len(wanted)), wanted]
    assert actual["val/loss"] == pytest.approx(float(losses.mean()), rel=1e-4)  # a mean over words, not over batches
    assert {"val/span_f1", "val/span_precision", "val/span_recall"} <= set(actual)


def test_a_batch_without_a_labelled_word_does_not_count(folder: Path) -> None:
    task = TokenClassification(str(folder / "tokens"), NAMES, Identity())
    labelled = {**inputs(2, 5), "labels": torch.tensor([[-100, 1, 2, -100, 0], [-100, 1, -100, -100, -100]])}
    without = {**inputs(1, 5), "labels": torch.full((1, 5), -100)}
    expected = measured(task, [labelled])
    assert measured(task, [without, labelled, without]) == pytest.approx(expected)


@cases("names", [[], ["O"], ["O", "O"]])
def test_labels_that_are_not_two_are_refused(folder: Path, names: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="`label_names` should be two or more different names"):
        TokenClassification(str(folder / "tokens"), names, Identity())


def test_the_model_knows_the_names(folder: Path) -> None:
    task = TokenClassification(str(folder / "tokens"), NAMES, Identity())
    assert task.model.config.id2label == dict(enumerate(NAMES))
    assert task.model.config.label2id == {"O": 0, "B-X": 1, "I-X": 2}


def test_spans_are_measured_whole(folder: Path) -> None:
    class Predicting(TokenClassification):
        def forward(self, batch: Any) -> Any:
            return SimpleNamespace(loss=torch.zeros(()), logits=batch["scores"])

    chosen = torch.tensor([[0, 1, 2, 2, 0], [0, 1, 0, 0, 0]])
    batch = {"scores": torch.nn.functional.one_hot(chosen, 3).float(), **inputs(2, 5)}
    batch["labels"] = torch.tensor([[-100, 1, 2, 0, -100], [-100, 1, -100, -100, -100]])
    actual = measured(Predicting(str(folder / "tokens"), NAMES, Identity()), [batch])
    # predicted: X at 1-3, X at 1; right: X at 1-2, X at 1
    assert actual["val/span_f1"] == actual["val/span_precision"] == actual["val/span_recall"] == 0.5
    assert actual["val/accuracy"] == 0.75


# ---------------------------------------------------------------- answers
def test_an_answer_is_the_best_span_of_all_windows(folder: Path) -> None:
    task = ExtractiveQuestionAnswering(str(folder / "answers"), Identity(), max_answer_length=3)
    generator = torch.Generator().manual_seed(0)
    texts = ["abcdefghij", "ABCDEFGHIJ"]
    for _ in range(20):
        starts, ends = torch.randn(2, 3, 8, generator=generator)
        offsets = torch.full((3, 8, 2), -1)
        for window, shift in enumerate((0, 3, 1)):
            for token in range(2, 7):
                offsets[window, token] = torch.tensor([shift + token - 2, shift + token - 1])
        batch = {"window_row": torch.tensor([0, 0, 1]), "offsets": offsets, "contexts": texts}
        actual = task.predict(SimpleNamespace(start_logits=starts, end_logits=ends), batch)["predictions"]
        for row, windows in enumerate(([0, 1], [2])):
            spans = [
                (float(starts[window, first] + ends[window, last]), offsets[window, first, 0], offsets[window, last, 1])
                for window, first, last in product(windows, range(2, 7), range(2, 7))
                if first <= last < first + 3
            ]
            _, start, end = max(spans, key=lambda span: span[0])
            assert actual[row] == texts[row][start:end]


def test_an_answer_has_no_blanks_around_it(folder: Path) -> None:
    task = ExtractiveQuestionAnswering(str(folder / "answers"), Identity())
    logits, offsets = torch.tensor([[0.0, 9.0]]), torch.tensor([[[-1, -1], [3, 8]]])
    batch = {"window_row": torch.tensor([0]), "offsets": offsets, "contexts": ["the cat sat"]}
    actual = task.predict(SimpleNamespace(start_logits=logits, end_logits=logits), batch)
    assert actual["predictions"] == ["cat"]


def test_answers_are_scored_in_the_language_of_the_part(folder: Path) -> None:
    class Predicting(ExtractiveQuestionAnswering):
        def forward(self, batch: Any) -> Any:
            return SimpleNamespace(loss=torch.zeros(()), start_logits=batch["hits"][0], end_logits=batch["hits"][1])

    hits = torch.zeros(2, 1, 3)
    hits[0, 0, 1] = hits[1, 0, 2] = 9.0
    given = {"window_row": torch.tensor([0]), "offsets": torch.tensor([[[-1, -1], [0, 3], [4, 7]]]), "hits": hits}
    loaders: dict[str, Any] = {
        name: DataLoader([{**inputs(1, 3), **given, "contexts": ["the cat"], "answers": [["cat"]]}], batch_size=None)  # type: ignore[arg-type]
        for name in ("en", "de")
    }
    run = trainer()
    run.validate(Predicting(str(folder / "answers"), Identity()), loaders, verbose=False)
    assert run.callback_metrics["val/answer_exact_match/en"] == 1
    assert run.callback_metrics["val/answer_exact_match/de"] == 0  # "the" is no article there
    assert run.callback_metrics["val/answer_f1/de"] == pytest.approx(2 / 3)


@cases("threshold", [-1.0, 0.0, 1.0])
@cases("unanswerable", [True, False, None])
def test_an_answer_is_empty_where_all_windows_say_so(folder: Path, unanswerable: bool | None, threshold: float) -> None:
    task = ExtractiveQuestionAnswering(
        str(folder / "answers"), Identity(), unanswerable=unanswerable, null_threshold=threshold
    )
    generator, empty = torch.Generator().manual_seed(0), 0
    offsets = torch.full((2, 5, 2), -1)
    offsets[:, 2:] = torch.tensor([[0, 3], [4, 7], [8, 11]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])  # padded in front: the first token is the second
    batch = {"window_row": torch.zeros(2).long(), "offsets": offsets, "contexts": ["the cat sat"]}
    for _ in range(50):
        starts, ends = torch.randn(2, 2, 5, generator=generator)
        starts[:, :2] += 2
        output = SimpleNamespace(start_logits=starts, end_logits=ends)
        (actual,) = task.predict(output, {**batch, "attention_mask": mask})["predictions"]
        spans = [starts[w, a] + ends[w, b] for w, a, b in product(range(2), range(2, 5), range(2, 5)) if a <= b]
        null = min(starts[0, 0] + ends[0, 0], starts[1, 1] + ends[1, 1])
        assert (actual == "") == bool(unanswerable and null - max(spans) > threshold)
        empty += actual == ""
    assert (0 < empty < 50) == bool(unanswerable)


def test_a_threshold_that_is_no_number_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Found `null_threshold = nan`\."):
        ExtractiveQuestionAnswering(str(folder / "answers"), Identity(), null_threshold=float("nan"))


def test_answers_of_no_length_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Found `max_answer_length = 0`\."):
        ExtractiveQuestionAnswering(str(folder / "answers"), Identity(), max_answer_length=0)


# ---------------------------------------------------------------- rankings
@pytest.mark.parametrize("kind", ["grades", "scores"])
def test_answers_are_ranked_by_their_expected_grade(folder: Path, kind: str) -> None:
    task = PointwiseRanking(str(folder / kind), GRADES if kind == "grades" else 1, Identity())
    batch: dict[str, Any] = {**inputs(6, 5), "group": torch.tensor([0, 0, 0, 1, 2, 2])}
    batch["labels"] = torch.tensor([0, 1, 2, 1, 0, 2]) if kind == "grades" else torch.tensor([0.0, 1, 2, 1, 0, 2])
    actual = measured(task, [batch])
    (predicted,) = trainer().predict(task, DataLoader([batch], batch_size=None))  # type: ignore[arg-type, misc]
    logits = predicted["logits"]  # type: ignore[call-overload]
    scores = predicted["predictions"]  # type: ignore[call-overload]
    expected = logits.softmax(-1) @ torch.arange(3.0) if kind == "grades" else logits[:, 0]
    assert torch.allclose(scores, expected)
    assert {"val/ndcg", "val/loss"} <= set(actual)
    assert 0 < actual["val/ndcg"] <= 1
    assert ("val/accuracy" in actual) == (kind == "grades")
