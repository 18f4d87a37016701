"""Batches of rows of similar length."""

from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader

from lightning_sparsegrad.data import TextDataModule
from lightning_sparsegrad.data.samplers import LengthGroupedSampler, UnrepeatedSampler, is_filler
from tests.cases import cases
from tests.data.helpers import write

ROWS, BATCH = 203, 4


def sampler(rank: int = 0, replicas: int = 1, *, epoch: int = 0, rows: int = ROWS) -> LengthGroupedSampler:
    lengths = [7 * row % 31 for row in range(rows)]
    grouped = LengthGroupedSampler(
        Dataset.from_dict({"a": range(rows)}), lengths, BATCH, num_replicas=replicas, rank=rank, seed=3
    )
    grouped.set_epoch(epoch)
    return grouped


def padding(order: list[int], batch: int) -> int:
    lengths = [7 * row % 31 for row in order]
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(max(lengths) * len(lengths) - sum(lengths) for lengths in batches)


def test_every_row_comes_once_and_padding_shrinks() -> None:
    order = list(sampler())
    assert sorted(order) == list(range(ROWS))
    assert padding(order, BATCH) < 0.2 * padding(list(range(ROWS)), BATCH)


def test_batches_come_in_an_order_of_seed_and_epoch() -> None:
    first, again, later = list(sampler()), list(sampler()), list(sampler(epoch=1))
    assert first == again != later
    lengths = [max(7 * row % 31 for row in first[start : start + BATCH]) for start in range(0, 200, BATCH)]
    assert lengths != sorted(lengths)
    assert lengths != sorted(lengths, reverse=True)


@cases("rows", [ROWS, 1, 5, 8])
@cases("replicas", [2, 3])
def test_processes_share_every_batch(rows: int, replicas: int) -> None:
    shares = [list(sampler(rank, replicas, rows=rows)) for rank in range(replicas)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == len(sampler(0, replicas, rows=rows))
    assert {row for share in shares for row in share} == set(range(rows))


def test_a_data_module_groups_by_length(tmp_path: Any, tokenizer: str) -> None:
    texts = [" ".join(["rain"] * (1 + 7 * row % 31)) for row in range(64)]
    path = write(tmp_path / "rows.csv", text=texts, label=[0, 1] * 32)
    plain, grouped = (
        TextDataModule(data_files={"train": path, "test": path}, tokenizer=tokenizer, batch_size=8, group_by_length=on)
        for on in (False, True)
    )
    sizes = [sum(batch["input_ids"].numel() for batch in data.train_dataloader()) for data in (plain, grouped)]
    assert sizes[1] < 0.7 * sizes[0]
    lengths = [batch["input_ids"].shape[1] for batch in grouped.test_dataloader()]
    assert lengths == sorted(lengths, reverse=True)
    assert [batch["input_ids"].shape[1] for batch in grouped.predict_dataloader()] == [
        batch["input_ids"].shape[1] for batch in plain.predict_dataloader()
    ]


@cases("rows", [1, 2, 5, 7, 8, 9, 203])
@cases("replicas", [2, 3, 4])
@cases("batch", [1, 2, 4])
def test_each_row_comes_once_in_as_many_batches_on_every_process(rows: int, replicas: int, batch: int) -> None:
    data = list(range(rows))
    alone = list(DataLoader(data, batch_size=batch))  # type: ignore[arg-type]
    evaluated, lengths = [], set()
    for rank in range(replicas):
        shared = UnrepeatedSampler(data, batch, num_replicas=replicas, rank=rank)
        loader: DataLoader[int] = DataLoader(data, batch_size=batch, sampler=shared)  # type: ignore[arg-type]
        own = [part.tolist() for at, part in enumerate(loader) if not is_filler(loader, at)]
        assert len(list(shared)) == len(shared)
        assert all(len(part) == 1 for at, part in enumerate(loader) if is_filler(loader, at))
        evaluated += own
        lengths.add(len(loader))
    assert lengths == {-(-len(alone) // replicas)}
    assert sorted(evaluated) == sorted(part.tolist() for part in alone)
