"""The most demanding rows of encoded data: the longest, and those with the largest ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

_IDS = ("input_ids", "token_type_ids")


def extreme_rows(rows: Dataset) -> list[int]:
    """Return the indices of the longest row, and of the rows with the largest token id and token type.

    Args:
        rows: Encoded rows, or rows of encoded `windows`.
    """
    import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    start = 0
    largest: dict[str, tuple[int, int]] = {}  # quantity to its largest value and the row that has it
    is_nested = "windows" in rows.column_names
    names = ["windows"] if is_nested else [name for name in _IDS if name in rows.column_names]
    table = rows.select_columns(names).with_format("arrow")[:]
    for batch in table.to_batches():
        columns: dict[str, Any] = dict(zip(names, batch.columns, strict=True))
        indices = pa.array(range(start, start + len(batch)))
        if is_nested:
            indices = indices.take(pc.list_parent_indices(columns["windows"]))
            windows = columns["windows"].flatten()
            columns = {name: windows.field(name) for name in _IDS if windows.type.get_field_index(name) >= 0}
        for name, lists in columns.items():
            _compare(largest, name, lists.flatten(), indices.take(pc.list_parent_indices(lists)))
        _compare(largest, "length", pc.list_value_length(columns["input_ids"]), indices)
        start += len(batch)
    return list(dict.fromkeys(row for _, row in largest.values()))


def _compare(largest: dict[str, tuple[int, int]], name: str, values: Any, indices: Any) -> None:
    import pyarrow.compute as pc

    top = pc.max(values).as_py()
    if top is not None and (name not in largest or top > largest[name][0]):
        largest[name] = (top, indices[pc.index(values, top).as_py()].as_py())
