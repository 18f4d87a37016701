"""Scores of answers that are spans of a text, in the languages of MLQA."""

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
    "ar": r"\sال^|ال",  # noqa: RUF001  # as in the official script: wherever the two letters stand
}
_UNSPACED = ("zh",)
_HAN = re.compile("([\u4e00-\u9fa5])")


_ASCII = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str, language: str, *, ascii_only: bool = False) -> list[str]:
    """Return the words by which MLQA compares answers.

    Lower case, without punctuation (that of Unicode, and ASCII's symbols) and without the articles of the language; in
    Chinese every character is a word.

    Args:
        text: An answer.
        ascii_only: Whether other punctuation than ASCII's stays, as in the evaluation of SQuAD.
        language: MLQA's `en`, `es`, `hi`, `vi`, `de`, `ar` or `zh`; any other is read like Hindi, which has no articles
            and spaces between words.

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
    found = [point for point in points if unicodedata.category(chr(point)).startswith("P")]
    return dict.fromkeys([*found, *map(ord, string.punctuation)])


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
            preds: One answer for each question.
            target: All right answers to each question; the one that scores best counts. An empty text says that there
                is none.

        Raises:
            ValueError: If there are not as many questions in both, or one has no list of right answers.
        """
        if len(preds) != len(target):
            raise ValueError(f"There should be an answer for each question. Found {len(preds)} for {len(target)}.")
        if alone := [right for right in target if isinstance(right, str)]:  # a list of letters
            raise ValueError(f"Each question should have a list of right answers. Found {alone[0]!r}.")
        if not all(target):
            raise ValueError("Each question should have a right answer. Found none.")
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
    """The share of answers whose words, as `normalize_answer` has them, are those of a right one, in order.

    Args:
        language: The language of the answers.
        unanswerable: Whether to score as SQuAD 2 does, where the answer to a question may be that there is none: 1 if
            the prediction is empty, too, else 0. In English, punctuation is then ASCII's.

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
    """The mean F1 of the words, as `normalize_answer` has them, that an answer shares with the best right one.

    Args:
        language: The language of the answers.
        unanswerable: Whether to score as SQuAD 2 does, where the answer to a question may be that there is none: 1 if
            the prediction is empty, too, else 0. In English, punctuation is then ASCII's.

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
