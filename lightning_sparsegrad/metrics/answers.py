"""Metrics of extractive question answering, in the languages of MLQA."""

import re
import string
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",  # noqa: RUF001  # as in the official script, anywhere in a word
}
_UNSPACED = ("zh",)
_HAN = re.compile("([\u4e00-\u9fa5])")


_ASCII = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str, language: str, *, ascii_only: bool = False) -> list[str]:
    """Return the normalized words by which MLQA compares answers.

    They are lower case, without punctuation (Unicode's, and ASCII's symbols) and without the articles of the language.
    In Chinese every character is a word.

    Args:
        text: An answer.
        language: MLQA's `en`, `es`, `hi`, `vi`, `de`, `ar` or `zh`; any other is treated like Hindi, which has no
            articles and separates words by spaces.
        ascii_only: Whether to remove only ASCII punctuation, as in the evaluation of SQuAD.

    Example:
        >>> normalize_answer("The Seine, in Paris.", "en")
        ['seine', 'in', 'paris']
        >>> normalize_answer("巴黎的 Seine 河", "zh")
        ['巴', '黎', '的', 'seine', '河']

    References:
        Patrick Lewis, Barlas Oguz, Ruty Rinott, Sebastian Riedel, Holger Schwenk. MLQA: Evaluating Cross-lingual
        Extractive Question Answering. ACL 2020. https://arxiv.org/abs/1910.07475, and its `mlqa_evaluation_v1.py`.
    """
    text = text.lower().translate(_ASCII if ascii_only else _no_punctuation())
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    if language in _UNSPACED:
        text = _HAN.sub(r" \1 ", text)
    return text.split()


@cache
def _no_punctuation() -> dict[int, None]:
    points = range(sys.maxunicode + 1)
    punctuation = [point for point in points if unicodedata.category(chr(point)).startswith("P")]
    return dict.fromkeys([*punctuation, *map(ord, string.punctuation)])


class _AnswerScore(Metric, ABC):
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, language: str = "en", *, unanswerable: bool = False) -> None:
        super().__init__()
        self.language, self.unanswerable = language, unanswerable
        self.add_state("total", torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, preds: Sequence[str], target: Sequence[Sequence[str]]) -> None:
        """Score the answers to some questions.

        Args:
            preds: One answer per question.
            target: All correct answers to each question; the best score counts. An empty text means that the question
                has no answer.

        Raises:
            ValueError: If the lengths differ, or a question has no list of correct answers.
        """
        if len(preds) != len(target):
            raise ValueError(f"Each question should have an answer. Found {len(preds)} for {len(target)} questions.")
        if alone := [right for right in target if isinstance(right, str)]:  # it would be read as a list of letters
            raise ValueError(f"Each question should have a list of correct answers. Found {alone[0]!r}.")
        if not all(target):
            raise ValueError("Each question should have a correct answer. Found none.")
        self.total += sum(self._best(answer, right) for answer, right in zip(preds, target, strict=True))
        self.count += len(preds)

    def _best(self, answer: str, right: Sequence[str]) -> float:
        words, *golds = (self._words(text) for text in (answer, *right))
        if self.unanswerable:
            golds = [gold for gold in golds if gold] or [[]]
            if not words or golds == [[]]:
                return float(words in golds)
        return max(self.score(words, gold) for gold in golds)

    def _words(self, text: str) -> list[str]:
        return normalize_answer(text, self.language, ascii_only=self.unanswerable and self.language == "en")

    @staticmethod
    @abstractmethod
    def score(words: list[str], right: list[str]) -> float:
        """Return the score of an answer, in [0, 1]."""

    @override
    def compute(self) -> Tensor:
        """Return the mean over the questions, in [0, 1], a float32 scalar; 0 without any."""
        return self.total / self.count.clamp(min=1)


class AnswerExactMatch(_AnswerScore):
    """The share of answers whose words, by `normalize_answer`, equal those of a correct answer in order.

    Args:
        language: The language of the answers.
        unanswerable: Whether to score as SQuAD 2 does, where a question may have no answer: it counts 1 if the
            prediction is empty, else 0. In English, only ASCII punctuation is then removed.

    Example:
        >>> metric = AnswerExactMatch("de")
        >>> metric.update(["die Seine"], [["Seine"]])
        >>> metric.compute()
        tensor(1.)
    """

    @staticmethod
    @override
    def score(words: list[str], right: list[str]) -> float:
        return float(words == right)


class AnswerF1(_AnswerScore):
    """The mean F1 of the words, by `normalize_answer`, that an answer shares with the closest correct answer.

    Args:
        language: The language of the answers.
        unanswerable: Whether to score as SQuAD 2 does, where a question may have no answer: it counts 1 if the
            prediction is empty, else 0. In English, only ASCII punctuation is then removed.

    Example:
        >>> metric = AnswerF1()
        >>> metric.update(["river Seine"], [["the Seine", "a river"]])
        >>> metric.compute()
        tensor(0.6667)
    """

    @staticmethod
    @override
    def score(words: list[str], right: list[str]) -> float:
        shared = sum((Counter(words) & Counter(right)).values())
        return 2 * shared / (len(words) + len(right)) if shared else 0.0
