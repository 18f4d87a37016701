"""The contract of all strategies for their representations and statistics."""

from copy import deepcopy

import pytest

from lightning_sparsegrad.transforms.masks.fixed_mask import FixedMask
from tests.cases import Laws
from tests.transforms.contract import assert_statistics, every_row
from tests.transforms.golden import Golden
from tests.transforms.small import WINDOWS, Small, apply, engine_for, on_one_thread, run, set_gradients, snapshot

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

law = Laws()


@every_row
def test_every_strategy_keeps_the_laws(row: Golden, subtests: pytest.Subtests):
    law.check(subtests, row)


@law
def statistics_are_shares_and_norms(row: Golden):
    model = Small()
    engine = engine_for(model, row.transform)
    assert_statistics(engine.statistics, finite=True)  # before the first window
    for step in WINDOWS:
        set_gradients(model, step)
        apply(engine, step)
        assert_statistics(engine.statistics, finite=True)


@law
def the_kept_share_is_that_of_the_entries(row: Golden):
    if "kept" not in row.transform.statistics or getattr(row.transform, "exclude", None):
        return
    model = Small()
    engine = engine_for(model, row.transform)
    for step in WINDOWS:
        set_gradients(model, step)
        apply(engine, step)
        if row.calibrates and step == 0:
            assert not engine.statistics
            continue
        members = [member for member in engine.transform.flattened() if isinstance(member, FixedMask)]
        counted = {name for member in members for name in member.masks} or dict(model.named_parameters()).keys()
        gradients = {name: gradient for name, gradient in snapshot(model).items() if name in counted}
        left = sum(int((gradient != 0).sum()) for gradient in gradients.values() if gradient is not None)
        total = sum(model.get_parameter(name).numel() for name in counted)
        assert float(engine.statistics["kept"]) == pytest.approx(left / total)


@law
def the_representation_is_short_and_stable(row: Golden):
    before = repr(row.transform)
    run(row.transform)
    assert before == repr(row.transform) == repr(deepcopy(row.transform))
    assert before.startswith(f"{type(row.transform).__name__}(")
    assert len(before) < 200
    assert " object at " not in before
