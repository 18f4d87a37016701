"""The most demanding rows of a data set."""

from datasets import Dataset, concatenate_datasets

from lightning_sparsegrad.data._extremes import extreme_rows

IDS = [[1, 2], [9], [3, 3, 3], [], [4, 8]]
TYPES = [[0, 1], [0], [0, 0, 0], [], [0, 0]]


def test_the_largest_id_the_largest_type_and_the_longest_row():
    rows = Dataset.from_dict({"input_ids": IDS, "token_type_ids": TYPES, "labels": [99, 98, 97, 96, 95]})
    assert sorted(extreme_rows(rows)) == [0, 1, 2]


def test_rows_that_were_selected_or_put_together():
    rows = Dataset.from_dict({"input_ids": IDS})
    assert sorted(extreme_rows(rows.select([3, 4, 0]))) == [1]
    assert sorted(extreme_rows(concatenate_datasets([rows.select([3]), rows, rows]))) == [2, 3]


def test_rows_of_windows():
    windows = [[{"input_ids": ids, "offsets": [[0, 1]] * len(ids)} for ids in row] for row in ([IDS[0]], IDS[1:3], [])]
    rows = Dataset.from_dict({"windows": [*windows, [{"input_ids": [5, 5, 5, 5], "offsets": [[0, 1]]}]]})
    assert sorted(extreme_rows(rows)) == [1, 3]


def test_rows_without_tokens():
    assert extreme_rows(Dataset.from_dict({"input_ids": [[], []]})) == [0]
