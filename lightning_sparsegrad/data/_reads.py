"""The columns of data files that a task reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reads:
    """The columns that a task reads, and their types.

    Args:
        texts: The columns of text, which is kept as written: `007`, `1e5`, `True`.
        labels: The columns of labels, which splits to predict may lack.
        are_classes: Whether the labels are known to be classes, so that `2.50` is a name and not a number.
    """

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    are_classes: bool = False
