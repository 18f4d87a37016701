from lightning_sparsegrad.data import RankingsDataModule
from tests.cases import cases
from tests.data.helpers import write


def test_answers_to_one_query_stand_in_one_group(tmp_path, tokenizer):
    queries = ["rain", "rain", "day", "rain", "rain", "rain"]
    rows = {"query": queries, "title": ["bad", "good", "fine", "a", "the", "of"], "label": [0, 1, 2, 0, 1, 2]}
    path = write(tmp_path / "rows.csv", **rows)
    data = RankingsDataModule(
        data_files={"train": path, "test": path}, text_columns=["query", "title"], tokenizer=tokenizer
    )
    (batch,) = data.test_dataloader()
    assert batch["group"].tolist() == [0, 0, 1, 2, 2, 2]
    assert batch["labels"].tolist() == [0, 1, 2, 0, 1, 2]
    assert data.num_labels == 3


@cases(
    ("most", "groups"), [(2, [0, 0]), (3, [0, 0, 0]), (4, [0, 0, 0]), (6, [0, 0, 0, 1, 1]), (7, [0, 0, 0, 1, 1, 2, 2])]
)
def test_a_sample_does_not_tear_groups_apart(tmp_path, tokenizer, most, groups):
    queries = ["rain"] * 3 + ["day"] * 2 + ["rain"] * 2
    path = write(tmp_path / "r.csv", query=queries, title=["bad"] * 7, label=[0, 1, 2, 2, 1, 0, 1])
    data = RankingsDataModule(
        data_files={"train": path}, text_columns=["query", "title"], tokenizer=tokenizer, max_samples=most
    )
    assert data.dataset("train")["group"][:] == groups
