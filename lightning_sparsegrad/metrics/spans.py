"""Metrics of labelled spans: named entities, and runs of one part of speech."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

IGNORED = -100  # the default of torch's cross entropy
_OUTSIDE = ("O", "O")
_SINGLE, _LAST, _BEGINS, _OTHER = "S", "E", "BSO", "O."

Label = tuple[str, str]  # first letter (B, I, O, E or S), and type


def read_label(name: str) -> Label:
    """Split a label at its first hyphen into its first letter and its type: `("B", "PER")` for `B-PER`.

    A label without a hyphen, such as a part of speech, is its own type. Only the label `O` is outside all spans: the
    first letter of `ORG` does not make it so.

    Example:
        >>> read_label("I-LOC"), read_label("NOUN"), read_label("ORG")
        (('I', 'LOC'), ('N', 'NOUN'), ('o', 'ORG'))
    """
    is_word = "-" not in name and name != "O" and name.startswith("O")
    return name[:1].lower() if is_word else name[:1], name.split("-", 1)[-1]


def spans_of(labels: Sequence[Label]) -> Iterator[tuple[str, int, int]]:
    """Yield the type, the first and the last index of each span of a sentence, by the rules of conlleval.

    A span ends after an E or S, before a B, S or O, and where the type changes. A span begins at a B or S, after an O,
    E or S, and where the type changes. Hence an I without a B begins a span, and adjacent labels of one type without
    these first letters form one span.

    Args:
        labels: The labels of a sentence as `read_label` returns them.

    Example:
        >>> list(spans_of([read_label(name) for name in ("B-PER", "I-PER", "O", "I-LOC")]))
        [('PER', 0, 1), ('LOC', 3, 3)]
    """
    first = 0
    for index, (before, label) in enumerate(pairwise([_OUTSIDE, *labels, _OUTSIDE])):
        if _ends(before, label):
            yield before[1], first, index - 1
        if _begins(before, label):
            first = index


def _ends(before: Label, label: Label) -> bool:
    (last, last_type), (letter, kind) = before, label
    if last in _OTHER:
        return False
    return last in (_LAST, _SINGLE) or (last in "BI" and letter in _BEGINS) or last_type != kind


def _begins(before: Label, label: Label) -> bool:
    (last, last_type), (letter, kind) = before, label
    if letter in _OTHER:
        return False
    return letter in ("B", _SINGLE) or (last in "ESO" and letter in "EI") or last_type != kind


class _SpanScore(Metric, ABC):
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    right: Tensor
    predicted: Tensor
    actual: Tensor

    def __init__(self, label_names: Sequence[str]) -> None:
        super().__init__()
        self._labels = [read_label(name) for name in label_names]
        for name in ("right", "predicted", "actual"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the spans of a batch.

        Args:
            preds: Classes, int64 of shape (batch, tokens).
            target: Classes, or -100 at tokens to ignore, int64 of the same shape.
        """
        right = predicted = actual = 0
        both = torch.stack((preds, target)).tolist()  # one transfer from the accelerator
        for predicted_row, target_row in zip(*both, strict=True):
            words = [
                (ours, theirs) for ours, theirs in zip(predicted_row, target_row, strict=True) if theirs != IGNORED
            ]
            spans = set(spans_of([self._labels[ours] for ours, _ in words]))
            gold = set(spans_of([self._labels[theirs] for _, theirs in words]))
            right += len(spans & gold)
            predicted += len(spans)
            actual += len(gold)
        self.right += right
        self.predicted += predicted
        self.actual += actual

    @abstractmethod
    @override
    def compute(self) -> Tensor:
        """Return the score, in [0, 1], a float32 scalar; 0 where it is undefined."""


class SpanPrecision(_SpanScore):
    """The share of predicted spans that are correct in type, start and end, over all types together.

    Args:
        label_names: The names of the labels in the order of their ids: `O`, `B-PER`, `I-PER` and so on, or names
            without a hyphen.

    Note:
        For names without a hyphen it is the metric that XGLUE reports for parts of speech: adjacent words of one label
        form one span, but the S of `SCONJ` and `SYM` makes every word a span, and the I of `INTJ` follows the rules of
        I. The type is the whole name, as in the seqeval of XGLUE's time; later versions cut off its first letter, and
        so count a predicted `CCONJ` as a `SCONJ`.

    References:
        Erik F. Tjong Kim Sang, Fien De Meulder. Introduction to the CoNLL-2003 Shared Task. 2003.
        https://aclanthology.org/W03-0419

    Example:
        >>> metric = SpanPrecision(["O", "B-PER", "I-PER"])
        >>> metric.update(torch.tensor([[1, 2, 0, 1]]), torch.tensor([[1, 2, 0, -100]]))
        >>> metric.compute()
        tensor(1.)
    """

    @override
    def compute(self) -> Tensor:
        return _share(self.right, self.predicted)


class SpanRecall(_SpanScore):
    """The share of actual spans that are predicted with their type, start and end; see `SpanPrecision`.

    Args:
        label_names: The names of the labels in the order of their ids.

    Example:
        >>> metric = SpanRecall(["O", "B-PER", "I-PER"])
        >>> metric.update(torch.tensor([[1, 0, 0, 0]]), torch.tensor([[1, 0, 1, 2]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    @override
    def compute(self) -> Tensor:
        return _share(self.right, self.actual)


class SpanF1(_SpanScore):
    """The harmonic mean of `SpanPrecision` and `SpanRecall`, the usual metric of named entities.

    Args:
        label_names: The names of the labels in the order of their ids.

    Example:
        >>> metric = SpanF1(["O", "B-PER", "I-PER"])
        >>> metric.update(torch.tensor([[1, 0, 0, 0]]), torch.tensor([[1, 0, 1, 2]]))
        >>> metric.compute()
        tensor(0.6667)
    """

    @override
    def compute(self) -> Tensor:
        return _share(2 * self.right, self.predicted + self.actual)


def _share(count: Tensor, total: Tensor) -> Tensor:
    return count.float() / total.clamp(min=1)  # 0 if there are none
