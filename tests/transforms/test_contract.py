"""The contract of all strategies, which are collected automatically; each needs an overlay and a golden row."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_sparsegrad import GradientEngine, GradientTransform, transforms
from lightning_sparsegrad.transforms.base import _FACTS, stated
from tests.cases import Laws, cases
from tests.reference import stepped
from tests.strategies import ROOT, STRATEGIES, overlay_name, spec_in
from tests.transforms.contract import every_row
from tests.transforms.golden import GOLDEN, Golden, digests, weighted_sum
from tests.transforms.small import (
    SEED,
    TOTAL_STEPS,
    WINDOWS,
    Small,
    Snapshot,
    Still,
    apply,
    assert_equals_reference,
    assert_same_bits,
    engine_for,
    flat,
    layout_of,
    on_one_thread,
    run,
    set_gradients,
    snapshot,
    values_of,
    window_of,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

every_strategy = cases("strategy", STRATEGIES, ids=lambda kind: kind.__name__)
law = Laws()


@every_row
def test_every_strategy_keeps_the_laws(row: Golden, subtests: pytest.Subtests):
    law.check(subtests, row)


# ---------------------------------------------------------------- the four touches of a new strategy
def test_all_strategies_are_found():
    assert {kind.__name__ for kind in STRATEGIES} >= {"Chain", "GradDrop", "Identity", "ValueClip"}


@every_strategy
def test_strategy_has_an_overlay_of_its_name(strategy: type):
    assert spec_in(overlay_name(strategy))["class_path"] == strategy.__name__


@every_strategy
def test_strategy_has_a_golden_row(strategy: type):
    kinds = {type(row.transform) for row in GOLDEN}
    assert strategy in kinds, (
        f"{strategy.__name__} needs a golden row: add tests/transforms/golden/{overlay_name(strategy)}.py"
    )


@every_strategy
def test_strategy_is_imported_by_its_package(strategy: type):
    file = "lightning_sparsegrad/transforms/__init__.py"
    assert getattr(transforms, strategy.__name__, None) is strategy, f"import {strategy.__name__} in {file}"
    assert strategy.__name__ in transforms.__all__, f"add {strategy.__name__} to `__all__` in {file}"


@every_strategy
def test_strategy_states_all_facts_of_its_bases(strategy: type):
    """One that overrides `apply_` and does not state them again would be refused on shards, or compute everything."""
    bases = strategy.__mro__[: strategy.__mro__.index(GradientTransform)]
    assert stated(strategy) >= {fact for base in bases for fact in _FACTS if fact in vars(base)}


# ---------------------------------------------------------------- numbers
@law
def golden_values(row: Golden):
    done = run(row.transform)
    assert [weighted_sum(done[step]) for step in WINDOWS] == pytest.approx(row.sums, rel=1e-6)
    assert tuple(sum(gradient is None for gradient in done[step].values()) for step in WINDOWS) == row.dropped


def test_golden_rows_tell_the_strategies_apart():
    assert len(set(digests())) == len(GOLDEN)


@law
def equals_the_slow_reference(row: Golden):
    for tied in (False, True):
        model, does = Small(tied=tied), row.reference()
        engine = engine_for(model, row.transform)
        for step in range(TOTAL_STEPS):
            set_gradients(model, step)
            expected = does(values_of(model), window_of(step), layout_of(model))
            apply(engine, step)
            stepped(does)
            assert_equals_reference(model, expected)


# ---------------------------------------------------------------- purity
@law
def a_fresh_engine_gives_the_same_bits(row: Golden):
    first, second = run(row.transform), run(row.transform)
    for step in WINDOWS:
        assert_same_bits(first[step], second[step])


@law
def windows_opened_in_another_order_give_the_same_bits(row: Golden):
    if row.learns or row.calibrates:
        return  # what a window teaches comes before the next one
    forth, back = run(row.transform), run(row.transform, steps=[*reversed(WINDOWS), 1, *WINDOWS[:1]])
    for step in WINDOWS:
        assert_same_bits(forth[step], back[step])


@law
def the_order_of_parameters_does_not_matter(row: Golden):
    model = Small(permuted=True)
    assert list(dict(model.named_parameters())) != list(dict(Small().named_parameters()))
    expected, reordered = run(row.transform), run(row.transform, model=model)
    for step in WINDOWS:
        assert reordered[step].keys() == expected[step].keys()
        for name, gradient in expected[step].items():
            other = reordered[step][name]
            assert (other is None) == (gradient is None), name
            if gradient is not None and other is not None:
                assert torch.equal(other == 0, gradient == 0), name
                torch.testing.assert_close(other, gradient, rtol=1e-6, atol=0)  # a norm is summed in another order


def test_another_process_gives_the_same_bits():
    code = "import json; from tests.transforms.golden import digests; print(json.dumps(digests()))"
    environment = {**os.environ, "PYTHONHASHSEED": "4", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    assert json.loads(done.stdout) == digests()


@law
def the_global_random_state_is_neither_used_nor_touched(row: Golden):
    expected, model = run(row.transform), Small()
    engine = engine_for(model, row.transform)
    for step in WINDOWS:
        torch.manual_seed(step)
        random.seed(step)
        np.random.seed(step)  # the global state is what this is about
        before = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())
        set_gradients(model, step)
        apply(engine, step)
        _ = engine.statistics
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), pickle.dumps(np.random.get_state())) == before[1:]
        assert_same_bits(snapshot(model), expected[step])


# ---------------------------------------------------------------- copies and state
def _pickled(original: Any) -> Any:
    return pickle.loads(pickle.dumps(original))  # noqa: S301  # our own bytes


@law
def a_copy_does_the_same(row: Golden):
    expected = run(row.transform)
    for copied in (deepcopy, _pickled):
        model = Small()
        engine = engine_for(model, copied(row.transform))
        for step in WINDOWS:
            model, engine = copied((model, engine))  # bound, and used before
            set_gradients(model, step)
            apply(engine, step)
            assert_same_bits(snapshot(model), expected[step])


@law
def an_engine_leaves_the_transform_it_was_given_as_it_was(row: Golden):
    before = pickle.dumps(row.transform)
    run(row.transform)
    assert pickle.dumps(row.transform) == before


@law
def the_state_goes_through_a_weights_only_file_into_a_fresh_engine(row: Golden):
    steps = range(TOTAL_STEPS) if row.learns else WINDOWS
    expected, model = run(row.transform, steps=steps), Small()
    engine = engine_for(model, row.transform)
    for step in steps:
        set_gradients(model, step)
        apply(engine, step)
        assert_same_bits(snapshot(model), expected[step])
        file = BytesIO()
        torch.save(engine.state_dict(), file)
        file.seek(0)
        engine = engine_for(model, deepcopy(row.transform))
        engine.load_state_dict(torch.load(file, weights_only=True))
        assert engine.seed == SEED


# ---------------------------------------------------------------- what a step teaches
def _learnt(engine: GradientEngine) -> list[Any]:
    """Return the tensors of a state, which are what is learnt; windows that are left out may be counted beside them."""
    states = [member.state_dict() for member in engine.transform.flattened()]
    return flat([value for state in states for value in state.values() if isinstance(value, Tensor)])


def _between_windows(row: Golden, lose: Callable[[GradientEngine, Small, int], None]) -> list[Snapshot]:
    """Return the gradients of windows in which some parameters have none, before each of which another is lost."""
    model, done = Small(), []
    engine = engine_for(model, row.transform)
    for step in range(TOTAL_STEPS):
        before = _learnt(engine)
        assert before or not row.learns
        lose(engine, model, step)
        assert _learnt(engine) == before
        set_gradients(model, step)
        for parameter in list(model.parameters())[step % 2 :: 3]:
            parameter.grad = None
        apply(engine, step)
        done.append(snapshot(model))
    return done


@law
def a_window_without_a_step_teaches_nothing(row: Golden):
    if not row.learns:
        return
    expected = _between_windows(row, lambda *_: None)
    for happens in (None, False):

        def lose(engine: GradientEngine, model: Small, step: int, happens: bool | None = happens) -> None:
            set_gradients(model, step + 1, scale=0.5)
            apply(engine, step, happens=happens)

        for actual, wanted in zip(_between_windows(row, lose), expected, strict=True):
            assert_same_bits(actual, wanted)


@law
def several_optimizers_teach_what_one_does(row: Golden):
    if not row.learns:
        return
    expected, model = run(row.transform, steps=range(TOTAL_STEPS)), Small()
    engine = engine_for(model, row.transform)
    parameters = list(model.parameters())
    optimizers = [Still(parameters[start::2], {}) for start in range(2)]
    engine.attach(*optimizers)
    for step in range(TOTAL_STEPS):
        set_gradients(model, step)
        apply(engine, step, happens=None)
        for optimizer in optimizers:
            optimizer.step()
        assert_same_bits(snapshot(model), expected[step])
