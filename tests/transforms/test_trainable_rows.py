"""TrainableRows: which rows train, of tied and untied tensors; and what it refuses."""

from typing import Any

import pytest
import torch

from lightning_sparsegrad import ConfigurationError, GradientEngine, TrainableRows
from tests.cases import cases
from tests.engine.helpers import OPTIMIZERS, backward, loss_on, tokens_at
from tests.transforms.frozen import weights
from tests.transforms.small import Small, on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


def moved_rows(strategy: TrainableRows, *, tied: bool = False, steps: int = 4) -> dict[str, list[int]]:
    """Return the rows of each parameter of which a bit has moved."""
    model = Small(tied=tied)
    engine, before = GradientEngine(model, strategy), weights(model)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    engine.attach(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        with engine.window(step):
            backward(loss_on(model, tokens_at(step)))
            engine.apply_()
        optimizer.step()
    return {
        name: (weight != before[name]).view(len(weight), -1).any(1).nonzero().flatten().tolist()
        for name, weight in weights(model).items()
        if weight.ndim and weight.numel()
    }


@cases("tied", [False, True])
@cases("pattern", ["embeddings.weight", "head.weight", "*s.weight", "h*.weight"])
def test_a_tied_tensor_is_one_under_any_of_its_names(tied: bool, pattern: str):
    moved = moved_rows(TrainableRows({pattern: [1, 4]}), tied=tied)
    is_head = pattern.startswith("h")
    assert moved["embeddings.weight"] == ([1, 4] if tied or not is_head else [*range(7)])
    if not tied:
        assert moved["head.weight"] == ([1, 4] if is_head else [*range(7)])


def test_a_row_trains_if_any_pattern_lists_it():
    moved = moved_rows(TrainableRows({"embeddings.*": [0, 0], "*.weight": [2], "emb*": [2, 3]}))
    assert moved["embeddings.weight"] == [0, 2, 3]
    assert moved["blocks.0.output.weight"] == [2]
    assert moved["blocks.0.output.bias"] == [0, 1, 2, 3]


def test_others_are_frozen_whole():
    moved = moved_rows(TrainableRows({"embeddings.weight": [6], "head.bias": [5]}, others="frozen"))
    assert {name: rows for name, rows in moved.items() if rows} == {"embeddings.weight": [6], "head.bias": [5]}


def test_all_rows_of_a_tensor_train_beside_some_of_another():
    moved = moved_rows(TrainableRows({"head.*": "all", "embeddings.weight": [2]}, others="frozen"))
    assert {name: rows for name, rows in moved.items() if rows} == {
        "embeddings.weight": [2],
        "head.weight": [*range(7)],
        "head.bias": [*range(7)],
    }


def test_work_on_what_is_frozen_whole_is_skipped():
    model = Small()
    engine = GradientEngine(model, TrainableRows({"head.weight": [6]}, others="frozen"))
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    engine.attach(optimizer)
    for step in range(2):
        with engine.window(step):
            required = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            backward(loss_on(model, tokens_at(step)))
            engine.apply_()
    assert required == {"head.weight"}


REFUSED: list[tuple[Any, str]] = [
    ({}, "`rows` should map patterns to lists of rows. Found `rows = {}`"),
    ([0, 1], "`rows` should map patterns"),
    ({"embeddings.weight": []}, r"for each pattern a list of rows, 'added' or 'all'. Found `embeddings.weight = \[\]`"),
    ({"embeddings.weight": "some"}, "for each pattern a list of rows"),
    ({"embeddings.weight": 3}, "for each pattern a list of rows"),
    ({"embeddings.weight": [-1]}, "non-negative integer"),
    ({"embeddings.weight": [1.5]}, "non-negative integer"),
    ({"embeddings.weight": [True]}, "non-negative integer"),
    ({"embeddings.weight": [0, 7]}, r"indices below 7, the rows of `embeddings.weight`. Found `7`"),
    ({"embedding.weight": [0]}, "`rows` .* `embedding.weight`"),
    ({"temperature": [0]}, "Found `temperature`, a single number"),
    ({"empty": [0]}, "indices below 0"),
    ({"embeddings.weight": ["<new>"]}, r"indices where no tokenizer is at hand.* Found `rows = \{'embeddings.weight'"),
    ({"embeddings.weight": "added"}, "indices where no tokenizer is at hand"),
]


@cases(("rows", "message"), REFUSED, ids=lambda case: str(case[0]))
def test_rows_that_are_none_are_refused_in_one_line(rows: Any, message: str):
    with pytest.raises(ConfigurationError, match=message) as refused:
        GradientEngine(Small(), TrainableRows(rows))
    assert "\n" not in str(refused.value)


def test_others_are_trained_or_frozen():
    with pytest.raises(
        ConfigurationError, match=r"`others` should be one of 'train', 'frozen'. Found `others = 'freeze'`"
    ):
        TrainableRows({"embeddings.weight": [0]}, others="freeze")  # type: ignore[arg-type]


def test_a_long_list_of_rows_is_shortened():
    assert repr(TrainableRows({"*": [*range(50)]})).startswith("TrainableRows({'*': [0, 1, 2, ")
    assert len(repr(TrainableRows({"*": [*range(50)]}))) < 100


def test_padding_rows_and_rows_of_a_bag_train_like_others():
    bag = torch.nn.EmbeddingBag(5, 3)
    engine = GradientEngine(bag, TrainableRows({"weight": [2]}))
    optimizer = OPTIMIZERS["AdamW"](bag.parameters())
    engine.attach(optimizer)
    before = bag.weight.detach().clone()
    with engine.window(0):
        backward(bag(torch.tensor([[0, 2], [2, 4]])).square().sum())
        engine.apply_()
    optimizer.step()
    assert (bag.weight != before).any(1).tolist() == [False, False, True, False, False]
