"""What holds for every strategy in what it says about itself."""

from copy import deepcopy

import pytest

from tests.transforms.contract import assert_statistics, every_row
from tests.transforms.golden import GOLDEN, Golden
from tests.transforms.small import WINDOWS, Small, apply, engine_for, on_one_thread, run, set_gradients, snapshot

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

MASKS = [row for row in GOLDEN if "kept" in row.transform.statistics and not getattr(row.transform, "exclude", None)]


@every_row
def test_statistics_are_shares_and_norms(row: Golden):
    model = Small()
    engine = engine_for(model, row.transform)
    assert_statistics(engine.statistics, finite=True)  # before the first window
    for step in WINDOWS:
        set_gradients(model, step)
        apply(engine, step)
        assert_statistics(engine.statistics, finite=True)


@pytest.mark.parametrize("row", MASKS, ids=str)
def test_the_kept_share_is_that_of_the_entries(row: Golden):
    model = Small()
    engine = engine_for(model, row.transform)
    for step in WINDOWS:
        set_gradients(model, step)
        apply(engine, step)
        left = sum(int((gradient != 0).sum()) for gradient in snapshot(model).values() if gradient is not None)
        total = sum(parameter.numel() for parameter in model.parameters())
        assert float(engine.statistics["kept"]) == pytest.approx(left / total)


@every_row
def test_the_representation_is_short_and_stable(row: Golden):
    before = repr(row.transform)
    run(row.transform)
    assert before == repr(row.transform) == repr(deepcopy(row.transform))
    assert before.startswith(f"{type(row.transform).__name__}(")
    assert len(before) < 200
    assert " object at " not in before
