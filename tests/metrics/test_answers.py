"""Metrics of answers against an independent implementation, against torchmetrics in English, and by hand."""

import random
import re
import string
import unicodedata
from collections import Counter
from typing import Any

import pytest
import torch
from torchmetrics.text import SQuAD

from lightning_sparsegrad.metrics import AnswerExactMatch, AnswerF1, normalize_answer
from tests.cases import cases

ALPHABETS = {
    "en": "the a an seine paris  ,.!? river-bed it's",
    "es": "el la los un una río sena ¿dónde? ¡sí!",
    "de": "der die das ein eine fluss straße, „heißt“ «ja»",
    "hi": "नदी पेरिस। में, है सीन १९",
    "vi": "của là cái chiếc những sông ở paris.",
    "ar": "النهر في باريس، هل؟ ال سين",
    "zh": "塞纳河，在巴黎。Paris 的「河」 12 、",  # noqa: RUF001
}


ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "vi": "của là cái chiếc những",
    "de": "ein eine einen einem eines einer der die das den dem des",
}


def reference(text: str, language: str) -> list[str]:
    """Apply the steps of MLQA's evaluation one after the other, character by character."""
    characters = [
        c for c in text.lower() if not unicodedata.category(c).startswith("P") and c not in string.punctuation
    ]
    kept = "".join(characters)
    if language in ARTICLES:
        for article in ARTICLES[language].split():
            kept = re.sub(rf"(?<!\w){article}(?!\w)", " ", kept)
    if language == "ar":
        kept = kept.replace("ال", " ")
    if language != "zh":
        return kept.split()
    words, word = [], ""
    for character in f"{kept} ":
        han = "\u4e00" <= character <= "\u9fa5"
        if han or character.isspace():
            words += [word] if word else []
            words += [character] if han else []
            word = ""
        else:
            word += character
    return words


def draw(language: str, generator: random.Random) -> str:
    words = ALPHABETS[language].split(" ") if language != "zh" else list(ALPHABETS[language])
    return ("" if language == "zh" else " ").join(generator.choices(words, k=generator.randrange(0, 6)))


@cases("language", ALPHABETS)
def test_random_answers_are_scored_by_the_definition(language: str) -> None:
    generator = random.Random(0)  # noqa: S311
    for _ in range(200):
        answer, right = draw(language, generator), [draw(language, generator) for _ in range(2)]
        words, gold = reference(answer, language), [reference(text, language) for text in right]
        assert normalize_answer(answer, language) == words, answer
        f1, match = AnswerF1(language), AnswerExactMatch(language)
        f1.update([answer], [right])
        match.update([answer], [right])
        scores = []
        for each in gold:
            shared = sum((Counter(words) & Counter(each)).values())
            precision, recall = (shared / len(side) if side else 0 for side in (words, each))
            scores.append(2 * precision * recall / (precision + recall) if shared else 0)
        assert float(f1.compute()) == pytest.approx(max(scores))
        assert float(match.compute()) == any(words == each for each in gold)


@cases("language", ALPHABETS)
def test_articles_of_the_language_and_symbols_do_not_count(language: str) -> None:
    for article in " ".join(ARTICLES.values()).split():
        own = article in ARTICLES.get(language, "").split()
        expected = ["x"] if own else ["x", article]
        assert normalize_answer(f"X {article.upper()}", language) == expected, article
        assert normalize_answer(f"{article}x", language) == [f"{article}x"]
    for symbol in f"{string.punctuation}،؟।。「」":
        assert normalize_answer(f"x{symbol}y", language) == ["xy"], symbol


def test_english_is_that_of_squad() -> None:
    generator = random.Random(1)  # noqa: S311
    predictions: list[Any] = []
    wanted: list[Any] = []
    ours, theirs = (AnswerF1(), AnswerExactMatch()), SQuAD()
    for row in range(100):
        # where nothing is left of an answer, torchmetrics follows SQuAD 2.0, which has unanswerable questions
        answer, right = (f"{draw('en', generator)} Seine", [f"Paris {draw('en', generator)}" for _ in range(3)])
        predictions.append({"prediction_text": answer, "id": str(row)})
        wanted.append({"answers": {"text": right, "answer_start": [0] * 3}, "id": str(row)})
        for metric in ours:
            metric.update([answer], [right])
    theirs.update(predictions, wanted)
    expected = theirs.compute()
    assert 100 * float(ours[0].compute()) == pytest.approx(float(expected["f1"]), rel=1e-5)
    assert 100 * float(ours[1].compute()) == pytest.approx(float(expected["exact_match"]), rel=1e-5)


@cases(
    ("language", "answer", "right", "f1", "match"),
    [
        ("ar", "النهر، في باريس؟", "نهر في باريس", 1, 1),
        ("ar", "في باريس", "في النهر", 0.5, 0),
        ("hi", "सीन नदी।", "सीन नदी", 1, 1),
        ("hi", "पेरिस की सीन नदी", "सीन नदी", 2 / 3, 0),
        ("vi", "cái sông Seine", "sông Seine.", 1, 1),
        ("vi", "sông của Paris", "sông Seine", 0.5, 0),
        ("zh", "塞纳河。", "「塞纳河」", 1, 1),
        ("zh", "塞纳河", "纳河", 0.8, 0),
        ("zh", "1889年 Eiffel", "1889 年Eiffel", 1, 1),
        ("de", "die Straße", "Straße", 1, 1),
        ("es", "¿El río?", "un río", 1, 1),
        ("en", "el río", "río", 2 / 3, 0),
        ("sw", "the mto", "mto", 2 / 3, 0),
        ("en", "", "the", 0, 1),  # nothing is left of either
    ],
)
def test_by_hand(language: str, answer: str, right: str, f1: float, match: float) -> None:
    ours, exact = AnswerF1(language), AnswerExactMatch(language)
    ours.update([answer], [[right, "?"]] if match == 0 else [[right]])
    exact.update([answer], [[right]])
    assert float(ours.compute()) == pytest.approx(f1)
    assert float(exact.compute()) == match


def test_the_best_right_answer_counts_and_questions_are_averaged() -> None:
    metric = AnswerF1()
    metric.update(["Paris", "Rome"], [["London", "paris!"], ["Berlin"]])
    other = AnswerF1()
    other.update(["Oslo"], [["Oslo"]])
    assert float(other.compute()) == 1
    metric.merge_state(other)
    assert float(metric.compute()) == pytest.approx(2 / 3)
    metric.reset()
    metric.update(["Rome"], [["Berlin"]])
    assert float(metric.compute()) == 0


def test_many_answers_add_up_where_models_are_of_half_precision() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        metric = AnswerExactMatch()
        for _ in range(300):  # bfloat16 cannot count beyond 256
            metric.update(["Paris"], [["Paris"]])
        assert float(metric.compute()) == 1
    finally:
        torch.set_default_dtype(torch.float32)


@cases(
    ("target", "message"),
    [
        ([["a"]], "Found 2 for 1"),
        ([["a"], []], "should have a correct answer"),
        ([["a"], "bc"], r"should have a list of correct answers\. Found 'bc'\."),
    ],
)
def test_questions_without_answers(target: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnswerF1().update(["a", "b"], target)


def official(answer: str, right: list[str]) -> tuple[float, float]:
    """Return exact match and F1 of a question of SQuAD 2, following its evaluation step by step."""

    def normalized(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    right = [text for text in right if normalized(text)] or [""]
    scores = []
    for text in right:
        gold, predictions = normalized(text).split(), normalized(answer).split()
        shared = sum((Counter(gold) & Counter(predictions)).values())
        if not gold or not predictions:
            scores.append(float(gold == predictions))
        elif not shared:
            scores.append(0.0)
        else:
            precision, recall = shared / len(predictions), shared / len(gold)
            scores.append(2 * precision * recall / (precision + recall))
    return max(float(normalized(answer) == normalized(text)) for text in right), max(scores)


def test_answers_that_may_be_empty_are_scored_as_squad_2_does() -> None:
    generator = random.Random(0)  # noqa: S311
    pool = ["", "the", "A .", "Seine", "the Seine", "river \u2013 Seine", "a river", "1990\u201395", "199095", "!"]
    for _ in range(300):
        answer, right = generator.choice(pool), generator.choices(pool, k=generator.randrange(1, 4))
        f1, match = AnswerF1(unanswerable=True), AnswerExactMatch(unanswerable=True)
        f1.update([answer], [right])
        match.update([answer], [right])
        assert (float(match.compute()), float(f1.compute())) == pytest.approx(official(answer, right)), (answer, right)


def test_an_empty_answer_is_right_where_there_is_none_and_wrong_elsewhere() -> None:
    for score in (AnswerF1(unanswerable=True), AnswerExactMatch(unanswerable=True)):
        score.update(["", "", "Seine"], [[""], ["Seine"], [""]])
        assert float(score.compute()) == pytest.approx(1 / 3)
