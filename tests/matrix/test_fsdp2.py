"""FSDP2: the gradients of one process, masks bit for bit, and the weights it trains."""

import pytest
import torch

from tests.engine.helpers import backward, loss_on, tokens_at
from tests.sharding.models import gathered_weights
from tests.sharding.processes import NOT_FOR_SHARDS, SHARDED, TRAINED, transformed
from tests.sharding.results import Results, assert_alike, results_of, sums_up
from tests.transforms.golden import Golden
from tests.transforms.small import STEPS_PER_EPOCH, Small, engine_for

pytestmark = pytest.mark.distributed

REFUSED_ROWS = NOT_FOR_SHARDS
every_row = pytest.mark.parametrize("row", SHARDED, ids=str)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)], ids=["on_two", "on_four"])
def results(request: pytest.FixtureRequest) -> Results:
    return results_of(request.param)


@every_row
def test_gradients_are_those_of_one_process(results: Results, row: Golden) -> None:
    found = results["golden"][0][SHARDED.index(row)]
    assert_alike(found, transformed(Small(), row.transform), to_the_bit=not sums_up(row.transform))


@every_row
def test_training_is_that_of_one_process(results: Results, row: Golden) -> None:
    model = Small()
    engine = engine_for(model, row.transform)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.ndim], lr=0.05, weight_decay=0.1)
    for step in range(TRAINED):
        optimizer.zero_grad()
        with engine.window(step, epoch=step // STEPS_PER_EPOCH):
            backward(loss_on(model, tokens_at(step, 8)))
            model.temperature.grad = None
            engine.apply_()
        optimizer.step()
    trained = results["trained"][0][SHARDED.index(row)]
    torch.testing.assert_close(trained, gathered_weights(model), rtol=1e-3, atol=2e-4)


def test_a_strategy_that_does_not_take_shards_is_refused_by_name(results: Results) -> None:
    _, errors = results["not_for_shards"][0]
    for row, error in zip(REFUSED_ROWS, errors, strict=True):
        assert str(row) in error
