"""Span metrics against seqeval."""

import random
import warnings
from typing import Any

import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from torchmetrics import MetricCollection

from lightning_sparsegrad.metrics import SpanF1, SpanPrecision, SpanRecall
from lightning_sparsegrad.metrics.spans import read_label, spans_of
from tests.cases import cases

ENTITIES = ["O", *(f"{letter}-{kind}" for kind in ("PER", "LOC", "ORG") for letter in "BI")]
ODD = [*ENTITIES, "E-PER", "S-PER", "E-LOC", "S-LOC"]
FINE = ["O", *(f"{letter}-{kind}" for kind in ("art-other", "place-other", "place-city") for letter in "BI")]
SPEECH = ["ADJ", "ADP", "ADV", "AUX", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM"]
METRICS: dict[str, Any] = {"f1": (SpanF1, f1_score), "precision": (SpanPrecision, precision_score)}
METRICS["recall"] = (SpanRecall, recall_score)


def draw(names: list[str], rows: int, seed: int, noise: float) -> tuple[list[list[str]], list[list[str]]]:
    generator = random.Random(seed)  # noqa: S311
    target = [[generator.choice(names) for _ in range(generator.randrange(1, 12))] for _ in range(rows)]
    preds = [[generator.choice(names) if generator.random() < noise else name for name in row] for row in target]
    return preds, target


def padded(rows: list[list[str]], names: list[str], filler: int) -> torch.Tensor:
    length = max(map(len, rows)) + 1
    return torch.tensor([[names.index(name) for name in row] + [filler] * (length - len(row)) for row in rows])


@cases("metric", METRICS)
@cases("names", [ENTITIES, ODD, FINE, SPEECH, [*SPEECH, "O"]], ids=["BIO", "BIOES", "hyphens", "speech", "padded"])
def test_random_sentences_are_scored_as_seqeval_does(names: list[str], metric: str) -> None:
    make, reference = METRICS[metric]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(60):
            preds, target = draw(names, 1 + seed % 7, seed, noise=seed / 60)
            ours = make(names)
            ours.update(padded(preds, names, 0), padded(target, names, -100))
            assert float(ours.compute()) == pytest.approx(float(reference(target, preds)), abs=1e-6), (target, preds)


def test_a_coordinating_conjunction_is_no_subordinating_one() -> None:
    names = ["CCONJ", "SCONJ", "X", "O"]
    ours = SpanPrecision(names)
    ours.update(torch.tensor([[0, 2, 3]]), torch.tensor([[1, 2, 3]]))
    assert float(ours.compute()) == 0.5


@cases(
    ("names", "expected"),
    [
        ("O B-X I-X I-Y B-Y", [("X", 1, 2), ("Y", 3, 3), ("Y", 4, 4)]),
        ("I-X O I-X", [("X", 0, 0), ("X", 2, 2)]),
        ("NOUN NOUN VERB", [("NOUN", 0, 1), ("VERB", 2, 2)]),
        ("SYM SYM", [("SYM", 0, 0), ("SYM", 1, 1)]),
        ("INTJ INTJ", [("INTJ", 0, 1)]),
        ("B-X-Y I-X-Y I-Z-Y", [("X-Y", 0, 1), ("Z-Y", 2, 2)]),
        ("O ORG ORG PER O OTHER .", [("ORG", 1, 2), ("PER", 3, 3), ("OTHER", 5, 5)]),  # "." as seqeval has it
        ("", []),
    ],
)
def test_spans(names: str, expected: list[tuple[str, int, int]]) -> None:
    assert list(spans_of([read_label(name) for name in names.split()])) == expected


def test_ignored_places_are_no_places() -> None:
    metric = SpanF1(ENTITIES)
    metric.update(torch.tensor([[1, 0, 2, 0]]), torch.tensor([[1, -100, 2, -100]]))
    assert float(metric.compute()) == 1  # one span of two words, although a piece stands between them
    metric.update(torch.tensor([[1, 1]]), torch.tensor([[-100, -100]]))
    metric.update(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.int64))
    assert float(metric.compute()) == 1


@cases("metric", METRICS)
def test_nothing_found_of_nothing_is_zero(metric: str) -> None:
    ours = METRICS[metric][0](ENTITIES)
    ours.update(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64))
    assert float(ours.compute()) == 0


def test_processes_add_up_and_a_collection_counts_once() -> None:
    preds, target = draw(ENTITIES, 8, 1, 0.3)
    halves = [slice(0, 4), slice(4, 8)]
    parts = [SpanF1(ENTITIES) for _ in halves]
    for part, half in zip(parts, halves, strict=True):
        part.update(padded(preds[half], ENTITIES, 0), padded(target[half], ENTITIES, -100))
    whole = MetricCollection({name: make(ENTITIES) for name, (make, _) in METRICS.items()})
    for half in halves:
        whole.update(padded(preds[half], ENTITIES, 0), padded(target[half], ENTITIES, -100))
    parts[0].merge_state(parts[1])
    assert float(parts[0].compute()) == float(whole.compute()["f1"])
    assert len(whole.compute_groups) == 1
    whole.reset()
    whole.update(torch.tensor([[1]]), torch.tensor([[1]]))
    assert float(whole.compute()["f1"]) == 1


def test_scores_are_exact_where_models_are_of_half_precision() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        metric = SpanPrecision(ENTITIES)
        metric.update(torch.tensor([[1, 1, 1]]), torch.tensor([[1, 0, 1]]))
        assert float(metric.compute()) == pytest.approx(2 / 3)
    finally:
        torch.set_default_dtype(torch.float32)
