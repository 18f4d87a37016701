"""What holds for every strategy. The strategies are found by themselves; each needs an overlay and a golden row."""

import inspect
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from io import BytesIO
from pathlib import Path
from pkgutil import iter_modules
from re import sub

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparsegrad import GradientTransform, transforms
from tests.nasty import LAYOUTS, laid_out
from tests.transforms.golden import (
    GOLDEN,
    SEED,
    WINDOWS,
    Golden,
    Small,
    Snapshot,
    apply,
    assert_equals_reference,
    assert_same_bits,
    by_formula,
    digests,
    engine_for,
    layout_of,
    on_one_thread,
    run,
    set_gradients,
    snapshot,
    values_of,
    weighted_sum,
    window_of,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "configs" / "gradient"

for _module in iter_modules(transforms.__path__):
    import_module(f"{transforms.__name__}.{_module.name}")


def _subclasses(kind: type) -> Iterator[type]:
    subclasses: list[type] = kind.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


STRATEGIES = sorted(
    {
        kind
        for kind in _subclasses(GradientTransform)
        if not inspect.isabstract(kind) and kind.__module__.startswith("lightning_sparsegrad")
    },
    key=lambda kind: kind.__name__,
)

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda kind: kind.__name__)
MASKS = [row for row in GOLDEN if "kept" in row.transform.statistics and not getattr(row.transform, "exclude", None)]
every_row = pytest.mark.parametrize("row", GOLDEN, ids=str)


# ---------------------------------------------------------------- the four touches of a new strategy
def test_all_strategies_are_found():
    assert {kind.__name__ for kind in STRATEGIES} >= {"Chain", "GradDrop", "Identity", "ValueClip"}


@every_strategy
def test_strategy_has_an_overlay_of_its_name(strategy: type):
    overlay = OVERLAYS / f"{sub('(?<!^)(?=[A-Z])', '_', strategy.__name__).lower()}.yaml"
    assert overlay.is_file(), f"{strategy.__name__} needs an overlay: add {overlay.relative_to(ROOT)}"
    assert f"class_path: {strategy.__name__}\n" in overlay.read_text(), f"{overlay} should name {strategy.__name__}"


@every_strategy
def test_strategy_has_a_golden_row(strategy: type):
    kinds = {type(row.transform) for row in GOLDEN}
    assert strategy in kinds, f"{strategy.__name__} needs a row in tests/transforms/golden.py"


@every_strategy
def test_strategy_is_imported_by_its_package(strategy: type):
    assert getattr(transforms, strategy.__name__, None) is strategy, f"import {strategy.__name__} in transforms"
    assert strategy.__name__ in transforms.__all__


# ---------------------------------------------------------------- numbers
@every_row
def test_golden_values(row: Golden):
    done = run(row.transform)
    assert [weighted_sum(done[step]) for step in WINDOWS] == pytest.approx(row.sums, rel=1e-6)
    assert tuple(sum(gradient is None for gradient in done[step].values()) for step in WINDOWS) == row.dropped


def test_golden_rows_tell_the_strategies_apart():
    assert len(set(digests())) == len(GOLDEN)


@every_row
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_equals_the_slow_reference(row: Golden, tied: bool):
    assert row.does is not None
    model = Small(tied=tied)
    engine = engine_for(model, row.transform)
    for step in range(6):
        set_gradients(model, step)
        expected = row.does(values_of(model), window_of(step), layout_of(model))
        apply(engine, step)
        assert_equals_reference(model, expected)


# ---------------------------------------------------------------- purity
@every_row
def test_a_fresh_engine_gives_the_same_bits(row: Golden):
    first, second = run(row.transform), run(row.transform)
    for step in WINDOWS:
        assert_same_bits(first[step], second[step])


@every_row
def test_windows_opened_in_another_order_give_the_same_bits(row: Golden):
    forth, back = run(row.transform), run(row.transform, steps=[*reversed(WINDOWS), 1, *WINDOWS[:1]])
    for step in WINDOWS:
        assert_same_bits(forth[step], back[step])


@every_row
def test_the_order_of_parameters_does_not_matter(row: Golden):
    model = Small(permuted=True)
    assert list(dict(model.named_parameters())) != list(dict(Small().named_parameters()))
    expected, found = run(row.transform), run(row.transform, model=model)
    for step in WINDOWS:
        assert found[step].keys() == expected[step].keys()
        for name, gradient in expected[step].items():
            other = found[step][name]
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


@every_row
def test_the_global_random_state_is_neither_used_nor_touched(row: Golden):
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
def _deepcopied(transform: GradientTransform) -> GradientTransform:
    return deepcopy(transform)


def _pickled(transform: GradientTransform) -> GradientTransform:
    copied = pickle.loads(pickle.dumps(transform))  # noqa: S301  # our own bytes
    assert isinstance(copied, GradientTransform)
    return copied


@every_row
@pytest.mark.parametrize("copied", [_deepcopied, _pickled], ids=["deepcopy", "pickle"])
def test_a_copy_does_the_same(row: Golden, copied):
    expected, model = run(row.transform), Small()
    engine = engine_for(model, copied(row.transform))
    for step in WINDOWS:
        engine.transform = copied(engine.transform)  # bound, and used before
        set_gradients(model, step)
        apply(engine, step)
        assert_same_bits(snapshot(model), expected[step])


@every_row
def test_an_engine_leaves_the_transform_it_was_given_as_it_was(row: Golden):
    before = pickle.dumps(row.transform)
    run(row.transform)
    assert pickle.dumps(row.transform) == before


@every_row
def test_the_state_goes_through_a_weights_only_file_into_a_fresh_engine(row: Golden):
    expected, model = run(row.transform), Small()
    engine = engine_for(model, row.transform)
    set_gradients(model, WINDOWS[0])
    apply(engine, WINDOWS[0])
    file = BytesIO()
    torch.save(engine.state_dict(), file)
    file.seek(0)
    resumed = engine_for(model, deepcopy(row.transform))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.seed == SEED
    for step in WINDOWS[1:]:
        set_gradients(model, step)
        apply(resumed, step)
        assert_same_bits(snapshot(model), expected[step])


# ---------------------------------------------------------------- nasty gradients
def _nasty(kind: str, numbers: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return a gradient of one kind, made from ordinary numbers."""
    if kind == "none":
        return None
    changed = numbers.double()
    if kind == "zero":
        changed = changed * 0
    elif kind == "huge":
        changed = changed * (1e15 if dtype != torch.float16 else 2e4)  # 2e4 overflows in a few entries
    elif kind == "subnormal":
        changed = changed * torch.finfo(dtype).tiny / 4
    elif kind != "ordinary":
        changed.flatten()[len(changed.flatten()) // 2 :: 5] = float(kind)
    return changed.to(dtype)


KINDS = ["none", "zero", "ordinary", "huge", "subnormal", "inf", "-inf", "nan"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@st.composite
def nasty_models(draw: st.DrawFn) -> Small:
    """Draw a small model with nasty gradients; it has an empty, a 0-d and, at times, a tied parameter."""
    dtype = draw(st.sampled_from(DTYPES))
    model = Small(tied=draw(st.booleans())).to(dtype)
    alone = draw(st.none() | st.sampled_from([name for name, _ in model.named_parameters()]))
    for name, parameter in model.named_parameters():
        kind = draw(st.sampled_from(KINDS)) if alone in (None, name) else "none"
        numbers = by_formula(name, parameter.numel(), 1).view(parameter.shape)
        gradient = _nasty(kind, numbers, parameter.dtype)
        parameter.grad = None if gradient is None else laid_out(gradient, draw(st.sampled_from(LAYOUTS)))
    return model


@every_row
@settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(model=nasty_models(), step=st.integers(0, 5))
def test_nasty_gradients_end_as_the_reference_says(row: Golden, model: Small, step: int):
    assert row.does is not None
    before = snapshot(model)
    expected = row.does(values_of(model), window_of(step), layout_of(model))
    engine = engine_for(model, row.transform)
    apply(engine, step)
    assert_equals_reference(model, expected)
    _assert_nothing_hidden(before, snapshot(model))
    _assert_statistics(engine.statistics, finite=False)


def _assert_nothing_hidden(before: Snapshot, after: Snapshot) -> None:
    for name, gradient in after.items():
        if gradient is not None:
            overflown = before[name]
            assert overflown is not None, f"{name} got a gradient out of nowhere"
            assert not gradient[~overflown.isfinite()].isfinite().any(), f"an overflow in {name} was hidden"


@every_row
def test_parameters_without_a_gradient_stay_without(row: Golden):
    expected, model = run(row.transform, steps=[0])[0], Small()
    engine = engine_for(model, row.transform)
    set_gradients(model, 0)
    missing = [name for i, (name, _) in enumerate(model.named_parameters()) if i % 3 == 0]
    for name in missing:
        model.get_parameter(name).grad = None
    apply(engine, 0)
    found = snapshot(model)
    assert all(found[name] is None for name in missing)
    assert any(gradient is not None for gradient in found.values())
    assert {name for name in expected if expected[name] is None} <= {name for name in found if found[name] is None}


@every_row
def test_no_gradient_at_all_is_fine(row: Golden):
    model = Small()
    engine = engine_for(model, row.transform)
    apply(engine, 0)
    assert all(gradient is None for gradient in snapshot(model).values())
    _assert_statistics(engine.statistics, finite=True)


@every_row
@pytest.mark.parametrize("scale", [2.0**16, 2.0**-9], ids=str)
def test_a_loss_scale_scales_the_result_and_nothing_else(row: Golden, scale: float):
    expected, model = run(row.transform), Small()
    engine = engine_for(model, row.transform)
    for step in WINDOWS:
        set_gradients(model, step, scale=scale)
        apply(engine, step, loss_scale=scale)
        scaled = {name: None if g is None else g * scale for name, g in expected[step].items()}
        assert_same_bits(snapshot(model), scaled)


# ---------------------------------------------------------------- what it says about itself
@every_row
def test_statistics_are_shares_and_norms(row: Golden):
    model = Small()
    engine = engine_for(model, row.transform)
    _assert_statistics(engine.statistics, finite=True)  # before the first window
    for step in WINDOWS:
        set_gradients(model, step)
        apply(engine, step)
        _assert_statistics(engine.statistics, finite=True)


def _assert_statistics(statistics: dict[str, Tensor], *, finite: bool) -> None:
    for name, value in statistics.items():
        assert value.shape == (), name
        assert value.dtype.is_floating_point, name
        if name.rpartition("/")[2] in {"kept", "clipped"}:
            assert 0 <= float(value) <= 1, name
        else:
            assert "norm_before/" in name or "norm_after/" in name, f"what is `{name}`?"
            assert float(value) >= 0 or not finite, name


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
