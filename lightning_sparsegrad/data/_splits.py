"""A mapping of splits to their rows, loaded on first access."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from datasets import Dataset


class Splits(UserDict[str, "Dataset"]):
    """A mapping of splits to rows, in which an unused split is not read and may lack its file.

    Args:
        rows: The rows of each split, or a function that loads them and is called once.

    Example:
        >>> from datasets import Dataset
        >>> splits = Splits({"train": lambda: Dataset.from_dict({"text": ["sun"]}), "test": lambda: 1 / 0})
        >>> list(splits), splits["train"].num_rows
        (['train', 'test'], 1)
    """

    data: dict[str, Any]

    def __init__(self, rows: Mapping[str, Dataset | Callable[[], Dataset]]) -> None:
        super().__init__()
        self.data.update(rows)

    @override
    def __getitem__(self, split: str) -> Dataset:
        from datasets import Dataset

        rows = self.data[split]
        if not isinstance(rows, Dataset):
            rows = self.data[split] = rows()
        return rows
