"""GradientEngine in a plain PyTorch loop: a window, and one call in it."""

from typing import Any

import pytest

from lightning_sparsegrad import ConfigurationError, GradDrop, GradientEngine, HeadOnly, Identity
from tests.cases import cases
from tests.tiny import compiled
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


# ---------------------------------------------------------------- steps that the engine counts
def test_windows_are_counted_where_no_step_is_given():
    engine = GradientEngine(Small(), Identity())
    steps = []
    for _ in range(3):
        with engine.window() as window:
            engine.apply_()
        steps.append(window.step)
    assert steps == [0, 1, 2]
    assert engine.step == 3
    with engine.window(7):
        engine.apply_()
    assert engine.step == 8
    engine.open()
    engine.abandon()  # nothing was applied: this was no attempt
    assert engine.step == 8


def test_the_count_is_in_the_state_and_a_state_without_one_starts_at_zero():
    engine, other = GradientEngine(Small(), GradDrop(0.5)), GradientEngine(Small(), GradDrop(0.5))
    with engine.window(4):
        engine.apply_()
    other.load_state_dict(engine.state_dict())
    assert other.open().step == 5
    other.abandon()
    other.load_state_dict({key: value for key, value in engine.state_dict().items() if key != "step"})
    assert other.step == 0


# ---------------------------------------------------------------- several engines on one model
def test_two_engines_at_work_on_one_model_are_refused():
    model = Small()
    first, second = GradientEngine(model, Identity()), GradientEngine(compiled(model), GradDrop(0.5))
    message = "should be transformed by one engine; use `Chain` for several strategies. Found a second engine"
    first.open(0)
    second.open(0)
    with pytest.raises(ConfigurationError, match=message):
        first.apply_()
    with pytest.raises(ConfigurationError, match=message):
        first.open(0)
    second.apply_()  # the one that came last goes on


def test_engines_take_turns_on_one_model_and_work_side_by_side_on_two():
    model, other = Small(), Small()
    first, second, third = (GradientEngine(each, Identity()) for each in (model, model, other))
    for step in range(2):
        for engine in (first, second):
            with engine.window(step), third.window(step):
                engine.apply_()
                third.apply_()


def test_a_window_that_was_left_open_is_closed_by_the_next_engine_or_with_its_own():
    model = Small()
    for closes in (True, False):
        engine = GradientEngine(model, HeadOnly())
        set_gradients(model, 0)
        with engine.window(0):
            engine.apply_()
        engine.open(1)
        assert not all(parameter.requires_grad for parameter in model.parameters())
        if closes:
            GradientEngine(model, Identity()).open(0)
        else:
            del engine
        assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------- the model as a loop calls it
def test_obstacles_are_those_of_the_wrapped_model_and_names_those_of_the_model():
    model = Small()
    engine = GradientEngine(model, HeadOnly(), wrapped_model=compiled(model))
    with pytest.warns(UserWarning, match="one compiled region holds what is dropped and what is kept"):
        engine.open(0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(engine.parameters) == [name for name, _ in model.named_parameters()]
    with pytest.raises(ConfigurationError, match="Parameter `wrapped_model` should be a module"):
        GradientEngine(model, HeadOnly(), wrapped_model="model")  # type: ignore[arg-type]
