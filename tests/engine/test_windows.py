"""GradientEngine in a plain PyTorch loop: a window, and one call in it."""

from typing import Any

import pytest

from lightning_sparsegrad import ConfigurationError, GradDrop, GradientEngine, Identity
from tests.cases import cases
from tests.transforms.small import Small, assert_same_bits, set_gradients, snapshot


def test_a_window_without_apply_is_an_error_and_the_next_one_works():
    engine = GradientEngine(Small(), Identity())
    message = r"GradientEngine.apply_\(\) should be called once before a window ends. Found no call."
    with pytest.raises(RuntimeError, match=message), engine.window(0):
        pass
    with engine.window(0):
        engine.apply_()


def test_a_second_apply_is_an_error_and_leaves_the_gradients_of_the_first():
    model = Small()
    engine = GradientEngine(model, GradDrop(0.5, rescale=True))
    message = r"GradientEngine.apply_\(\) should be called once. Found two calls at step 3."
    set_gradients(model, 0)
    with engine.window(3):
        engine.apply_()
        before = snapshot(model)
        with pytest.raises(RuntimeError, match=message):
            engine.apply_()
    assert_same_bits(snapshot(model), before)


def test_apply_outside_a_window_is_an_error():
    engine = GradientEngine(Small(), Identity())
    message = r"GradientEngine.apply_\(\) should be called inside a window. Found none open."
    with pytest.raises(RuntimeError, match=message):
        engine.apply_()
    with engine.window(0):
        engine.apply_()
    with pytest.raises(RuntimeError, match=message):
        engine.apply_()


def test_a_window_inside_a_window_is_an_error_and_the_outer_one_goes_on():
    engine = GradientEngine(Small(), Identity())
    with engine.window(4):
        with (
            pytest.raises(RuntimeError, match=r"has a window open already. Found step 4, opening 5\."),
            engine.window(5),
        ):
            pass
        assert engine.current is not None
        assert engine.current.step == 4
        engine.apply_()
    assert engine.current is None


def test_an_exception_inside_a_window_is_not_masked_and_the_next_window_works():
    engine = GradientEngine(Small(), Identity())
    with pytest.raises(KeyError) as raised, engine.window(0):
        raise KeyError("a fault of the loop")
    assert raised.value.__context__ is None
    assert engine.current is None
    with engine.window(0):
        engine.apply_()


def test_an_exception_inside_apply_leaves_the_engine_usable():
    model = Small()
    engine = GradientEngine(model, GradDrop(0.5, resample_every="epoch"))
    set_gradients(model, 0)
    before = snapshot(model)
    with pytest.raises(ConfigurationError, match="Parameter `epoch` of the window should be given"), engine.window(0):
        engine.apply_()
    assert_same_bits(snapshot(model), before)
    with engine.window(0, epoch=0):
        engine.apply_()
    assert engine.applied


def test_a_window_says_where_training_stands():
    engine = GradientEngine(Small(), Identity(), total_steps=5, seed=9)
    with engine.window(1, epoch=2) as window:
        engine.apply_()
    assert (window.step, window.epoch, window.total_steps, window.seed, window.progress) == (1, 2, 5, 9, 0.25)


@cases(
    ("step", "total", "progress"),
    [(0, 11, 0.0), (7, 11, 0.7), (10, 11, 1.0), (12, 11, 1.0), (0, 1, 0.0), (5, None, 0.0)],
    ids=str,
)
def test_progress_runs_from_the_first_step_to_the_last_and_stays_there(step: int, total: int | None, progress: float):
    engine = GradientEngine(Small(), Identity(), total_steps=total)
    with engine.window(step) as window:
        engine.apply_()
    assert window.progress == progress


@cases(
    ("arguments", "message"),
    [
        ({"step": -1}, "Parameter `step` should be a non-negative integer. Found `step = -1`."),
        ({"step": 1.0}, "Parameter `step` should be a non-negative integer. Found `step = 1.0`."),
        ({"step": True}, "Parameter `step` should be a non-negative integer. Found `step = True`."),
        ({"step": None}, "Parameter `step` should be a non-negative integer. Found `step = None`."),
        ({"step": 0, "epoch": -2}, "Parameter `epoch` should be a non-negative integer. Found `epoch = -2`."),
        ({"step": 0, "epoch": "1"}, "Parameter `epoch` should be a non-negative integer. Found `epoch = '1'`."),
    ],
    ids=str,
)
def test_a_window_that_is_nowhere_in_training_is_refused(arguments: dict[str, Any], message: str):
    engine = GradientEngine(Small(), Identity())
    with pytest.raises(ConfigurationError) as refused, engine.window(**arguments):
        pass
    assert str(refused.value) == message
    assert engine.current is None
