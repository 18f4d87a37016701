from math import cos, inf, nan, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.schedules import Constant, Cosine, Linear, Schedule, TopDown, as_rate, as_threshold
from tests.cases import cases
from tests.nasty import EXAMPLES

RAMPS = [Linear, Cosine]
values = st.floats(-1e6, 1e6)
shares = st.floats(0, 1)


# ---------------------------------------------------------------- values
@cases("progress", [0.0, 0.3, 1.0])
@cases("height", [0.0, 1.0])
def test_a_constant_is_constant(progress, height):
    schedule = Constant(2)
    assert schedule(progress, height) == 2.0
    assert schedule.bounds() == (2.0, 2.0)
    assert (schedule.needs_progress, schedule.needs_height) == (False, False)


@cases(
    ("schedule", "expected"),
    [
        (Linear(0.8, 0.0), {0.0: 0.8, 0.25: 0.6, 0.5: 0.4, 1.0: 0.0}),
        (Linear(0.0, 1.0, begin=0.2, finish=0.6), {0.0: 0.0, 0.2: 0.0, 0.3: 0.25, 0.4: 0.5, 0.6: 1.0, 1.0: 1.0}),
        (Cosine(1.0, 0.0), {0.0: 1.0, 0.25: (1 + cos(pi / 4)) / 2, 0.5: 0.5, 1.0: 0.0}),
        (Cosine(2.0, 4.0, begin=0.5), {0.0: 2.0, 0.5: 2.0, 0.75: 3.0, 1.0: 4.0}),
    ],
    ids=["linear", "linear within", "cosine", "cosine from half"],
)
def test_ramps(schedule, expected):
    assert {progress: schedule(progress) for progress in expected} == pytest.approx(expected, abs=1e-12)
    assert {progress: schedule(progress, height=0.1) for progress in expected} == pytest.approx(expected, abs=1e-12)
    assert (schedule.needs_progress, schedule.needs_height) == (True, False)


@cases("ramp", RAMPS)
def test_ramps_start_and_end_exactly(ramp):
    schedule = ramp(0.3, 0.7, begin=0.1, finish=0.9)
    assert [schedule(progress) for progress in (0.0, 0.1)] == [0.3, 0.3]
    assert [schedule(progress) for progress in (0.9, 1.0)] == [0.7, 0.7]


@cases(
    ("height", "expected"),
    [
        (1.0, {0.0: 0.0, 0.5: 0.0, 1.0: 0.0}),
        (0.75, {0.0: 0.5, 0.125: 0.25, 0.25: 0.0, 1.0: 0.0}),
        (0.5, {0.0: 1.0, 0.25: 0.5, 0.5: 0.0, 1.0: 0.0}),
        (0.0, {0.0: 1.0, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0}),
    ],
    ids=["head", "upper", "middle", "embeddings"],
)
def test_top_down_goes_from_the_head_to_the_embeddings(height, expected):
    schedule = TopDown(1.0, 0.0, width=0.5)
    assert {progress: schedule(progress, height) for progress in expected} == pytest.approx(expected)
    assert (schedule.needs_progress, schedule.needs_height) == (True, True)


@EXAMPLES
@given(low=shares, high=shares, progress=shares, width=st.floats(0.01, 1))
def test_top_down_is_never_further_below_than_above(low, high, progress, width):
    low, high = sorted((low, high))
    schedule = TopDown(1.0, 0.0, width=width)
    assert schedule(progress, low) >= schedule(progress, high) - 1e-12


# ---------------------------------------------------------------- bounds
@EXAMPLES
@given(ramp=st.sampled_from(RAMPS), start=values, end=values, ends=st.tuples(shares, shares), progress=shares)
def test_bounds_of_ramps_bound(ramp, start, end, ends, progress):
    begin, finish = sorted(ends)
    if begin == finish:
        begin, finish = 0.0, 1.0
    schedule = ramp(start, end, begin=begin, finish=finish)
    low, high = schedule.bounds()
    assert low <= schedule(progress) <= high
    assert {low, high} == {schedule(0.0), schedule(1.0)}


@EXAMPLES
@given(start=values, end=values, width=st.floats(0.001, 1), progress=shares, height=shares)
def test_bounds_of_top_down_bound(start, end, width, progress, height):
    schedule = TopDown(start, end, width=width)
    low, high = schedule.bounds()
    assert low <= schedule(progress, height) <= high


@cases("schedule", [Linear(0.3, 0.3), Cosine(0.3, 0.3), TopDown(0.3, 0.3)], ids=repr)
def test_a_level_schedule_stays_level(schedule):
    assert {schedule(i / 97, j / 7) for i in range(98) for j in range(8)} == {0.3}


# ---------------------------------------------------------------- text
@cases(
    ("schedule", "text"),
    [
        (Constant(0.25), "0.25"),
        (Linear(0.8, 0), "Linear(0.8, 0, begin=0, finish=1)"),
        (Cosine(1, 0, begin=0.1, finish=0.5), "Cosine(1, 0, begin=0.1, finish=0.5)"),
        (TopDown(width=0.25), "TopDown(1, 0, width=0.25)"),
    ],
)
def test_repr(schedule, text):
    assert repr(schedule) == text


# ---------------------------------------------------------------- errors
@cases("ramp", RAMPS)
@cases(
    ("begin", "finish"), [(-0.1, 1.0), (0.5, 0.5), (0.6, 0.4), (0.0, 1.5), (nan, 1.0), (0.0, nan), (None, 1.0)], ids=str
)
def test_ramps_need_a_stretch_of_training(ramp, begin, finish):
    with pytest.raises(
        ConfigurationError, match=rf"0 <= begin < finish <= 1\. Found `begin = {begin}`, `finish = {finish}`"
    ):
        ramp(0.0, 1.0, begin=begin, finish=finish)


@cases("schedule", [Linear, Cosine, TopDown])
@cases("value", [inf, -inf, nan])
def test_ends_have_to_be_finite(schedule, value):
    with pytest.raises(ConfigurationError, match=rf"`start` should be finite\. Found `start = {value}`"):
        schedule(value, 1.0)
    with pytest.raises(ConfigurationError, match=rf"`end` should be finite\. Found `end = {value}`"):
        schedule(1.0, value)


@cases("width", [0, -0.5, 1.5, nan, inf])
def test_the_width_is_a_share(width):
    with pytest.raises(ConfigurationError, match=rf"`width` should be in \(0, 1\]\. Found `width = {width}`"):
        TopDown(width=width)


@cases("rate", [0, 1, 0.5, Linear(0, 1), TopDown()], ids=repr)
def test_rates(rate):
    schedule = as_rate("rate", rate)
    assert isinstance(schedule, Schedule)
    assert schedule is rate or schedule(0.5) == rate


@cases(
    "rate", [-0.1, 1.0001, nan, inf, Linear(0.5, 1.5), Cosine(-0.1, 0.5), TopDown(2.0, 0.0), Constant(nan)], ids=repr
)
def test_a_rate_outside_its_range_is_an_error(rate):
    with pytest.raises(ConfigurationError, match=r"`mask_rate` should be in \[0, 1\]\. Found `mask_rate = "):
        as_rate("mask_rate", rate)


@cases("threshold", [1e-30, 5, inf, Linear(0.1, 10), Constant(inf)], ids=repr)
def test_thresholds(threshold):
    schedule = as_threshold("max_norm", threshold)
    assert schedule is threshold or schedule(0.5) == threshold


@cases("threshold", [0, -1.0, nan, -inf, Linear(1, 0), Constant(0)], ids=repr)
def test_a_threshold_that_is_not_positive_is_an_error(threshold):
    with pytest.raises(ConfigurationError, match=r"`max_norm` should be positive\. Found `max_norm = "):
        as_threshold("max_norm", threshold)


@cases("value", ["0.5", None, True, [0.1]], ids=repr)
@cases("check", [as_rate, as_threshold])
def test_what_is_no_number_and_no_schedule_is_an_error(check, value):
    with pytest.raises(ConfigurationError, match=r"`x` should be a number or a schedule\. Found `"):
        check("x", value)


@cases("threshold", [1e-320, 1e-39, Linear(1.0, 1e-40)])
def test_a_threshold_that_float32_takes_for_zero_is_refused(threshold):
    with pytest.raises(ConfigurationError, match=r"Parameter `max_norm` should be at least 1\.18e-38"):
        as_threshold("max_norm", threshold)
    assert as_threshold("max_norm", 2.0**-126).bounds() == (2.0**-126, 2.0**-126)
