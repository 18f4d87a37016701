"""The columns of data files that a task reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reads:
    """The columns that a task reads, and as what.

    Args:
        texts: The columns of text, which stays as it is written: `007`, `1e5`, `True`.
        labels: The columns of labels, which splits to predict need not have.
        are_classes: Whether the labels are known to be classes, so that `2.50` is the name of one and no number.
    """

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    are_classes: bool = False
