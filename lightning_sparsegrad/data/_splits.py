"""The rows of each split, loaded when they are asked for."""

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset
from typing_extensions import override


class Splits(UserDict[str, Dataset]):
    """The rows by split: a split that is not used is not read, and its file may be missing.

    Args:
        rows: The rows of each split, or a function that loads them, which is called once.

    Example:
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
        rows = self.data[split]
        if not isinstance(rows, Dataset):
            rows = self.data[split] = rows()
        return rows
