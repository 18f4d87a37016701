"""Tables of predictions."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_table(path: Path, predictions: Sequence[Any], **columns: Sequence[Any]) -> None:
    """Write predictions as a tab-separated table with the columns `index`, `prediction` and those given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "prediction", *columns])
        words = (" ".join(value) if isinstance(value, list) else value for value in predictions)
        writer.writerows(zip(range(len(predictions)), words, *columns.values(), strict=True))
