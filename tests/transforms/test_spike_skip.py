"""SpikeSkip: what a window that is left out leaves untouched, in every kind of step, and where OLMo's code fails."""

from collections.abc import Callable
from copy import deepcopy
from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from lightning_sparsegrad import (
    AutoClip,
    Chain,
    ConfigurationError,
    GlobalNormClip,
    GradientEngine,
    Identity,
    SpikeSkip,
    ValueClip,
)
from lightning_sparsegrad.transforms.base import GradientTransform
from tests.cases import cases
from tests.transforms.golden.spike_skip import LeaveOutSpikes
from tests.transforms.norms import NAMES, NASTY, Slowly, Training, assert_same_state, nasty, ordinary
from tests.transforms.small import bits, on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


def short(**options: Any) -> SpikeSkip:
    return SpikeSkip(**{"history": 16, "warmup_steps": 8, **options})


def is_left_out(training: Training) -> bool:
    return all(parameter.grad is None for parameter in training.model.parameters())


# ---------------------------------------------------------------- the definition
@cases("seed", range(3))
def test_it_equals_its_slow_reference_through_anything(seed: int):
    training = Training(short(deviations=4.0, max_in_a_row=200))
    slow = Slowly(LeaveOutSpikes(4.0, history=16, warmup_steps=8, max_in_a_row=200))
    spikes = 0
    for step, norms in enumerate(nasty(200, seed, share=0.06)):
        bound, steps = slow.reference.threshold(), step % 7 != 3
        expected = slow.expected(training, norms)
        thresholds = training.window(norms, steps=steps)
        assert all(threshold == pytest.approx(bound, rel=1e-9) for threshold in thresholds.values())
        if steps:
            slow.reference.stepped()
        for name, left in expected.items():
            gradient = training.model.get_parameter(name).grad
            assert (gradient is None) == (left is None), step
        assert float(training.strategy.statistics["spikes"]) == slow.reference.spikes
        spikes = slow.reference.spikes
    assert spikes > 10


def test_the_threshold_is_the_mean_and_so_many_standard_deviations():
    training, norms = Training(short(deviations=5.0)), ordinary(30, seed=1, spread=0.05)
    for step, norm in enumerate(norms):
        past = norms[max(0, step - 16) : step]
        expected = np.mean(past) + 5 * np.std(past, ddof=1) if step >= 8 else inf
        assert training.window(norm)["all"] == pytest.approx(expected, rel=1e-9)
        assert not is_left_out(training)


def test_equal_norms_do_not_make_every_rise_a_spike():
    training = Training(short())
    training.windows([1.0] * 20)
    assert training.window(1.05) == pytest.approx({"all": 1.06})
    assert not is_left_out(training)


# ---------------------------------------------------------------- what a window that is left out leaves untouched
Make = Callable[[nn.Module], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda model: AdamW(model.parameters(), lr=0.1, weight_decay=0.5, foreach=False),
    "foreach AdamW": lambda model: AdamW(model.parameters(), lr=0.1, weight_decay=0.5, foreach=True, amsgrad=True),
    "fused AdamW": lambda model: AdamW(model.parameters(), lr=0.1, weight_decay=0.5, fused=True),
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, weight_decay=0.5, momentum=0.9, nesterov=True),
}


class Real:
    """A training of a tiny model with a real optimizer; a gradient scaler's step, behind its `unscale_` or without."""

    def __init__(self, make: Make, transform: GradientTransform, *, scaler: str = "none", **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        self.engine = GradientEngine(self.model, transform, **options)
        self.optimizer = make(self.model)
        self.engine.attach(self.optimizer)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaler != "none")
        self.unscales = scaler == "unscaled"
        self.step = 0

    def window(self, size: float) -> None:
        """Run a window and its step; the loss is the sum of outputs, `size` times as large."""
        self.optimizer.zero_grad()
        scaled = self.scaler.is_enabled() and not self.unscales
        with self.engine.window(self.step):
            loss = self.model(torch.linspace(-1, 1, 6).view(2, 3)).sum() * size
            self.scaler.scale(loss).backward()
            if self.unscales:
                self.scaler.unscale_(self.optimizer)
            self.engine.apply_(loss_scale=torch.tensor(self.scaler.get_scale()) if scaled else None)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1

    def everything(self) -> dict[str, Tensor]:
        """Return weights and the whole state of the optimizer."""
        state = self.optimizer.state_dict()["state"]
        kept = {f"{index}.{name}": value for index, of in state.items() for name, value in of.items()}
        return deepcopy({**self.model.state_dict(), **{k: v for k, v in kept.items() if isinstance(v, Tensor)}})


@cases("name", OPTIMIZERS)
@cases("scaler", ["none", "scaled", "unscaled"])
def test_neither_weights_nor_moments_change_by_a_bit(name: str, scaler: str):
    nothing_changes(Real(OPTIMIZERS[name], short(max_in_a_row=2), scaler=scaler), scaler)


@cases("clip", [GlobalNormClip(5.0), ValueClip(1e6)], ids=lambda clip: type(clip).__name__)
@cases("scaler", ["none", "scaled"])
def test_they_do_not_before_a_clip_either(clip: GradientTransform, scaler: str):
    chain = Chain([short(max_in_a_row=2), clip])
    nothing_changes(Real(OPTIMIZERS["AdamW"], chain, scaler=scaler), scaler)


def nothing_changes(run: Real, scaler: str) -> None:
    for size in (1.0, 1.1, 0.9) * 4:
        run.window(size)
    for spikes in (1, 2):
        before = run.everything()
        run.window(1e4)
        after = run.everything()
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert torch.equal(bits(after[key]), bits(value)), key
        assert float(run.engine.statistics["spikes"]) == spikes
        assert run.scaler.get_scale() == {"none": 1.0, "scaled": 1024.0 / 2**spikes, "unscaled": 1024.0}[scaler]
    before = run.everything()
    run.window(1.0)
    assert all(not torch.equal(value, before[key]) for key, value in run.everything().items() if "weight" in key)


@cases(
    "transforms",
    [
        lambda: [GlobalNormClip(0.5), short()],
        lambda: [AutoClip(), Identity(), short()],
        lambda: [Chain([Identity(), GlobalNormClip(0.5)]), Chain([short(), Identity()])],
        lambda: [ValueClip(1.0), short()],
    ],
    ids=["behind it", "further behind", "nested", "of values"],
)
def test_behind_a_clip_it_is_refused(transforms: Callable[[], list[GradientTransform]]):
    message = r"before a clip, behind which there are none. Found `SpikeSkip\(.*\)` behind `.*Clip\(.*\)`.$"
    with pytest.raises(ConfigurationError, match=message):
        Chain(transforms())


# ---------------------------------------------------------------- rows of spikes
def test_more_than_so_many_in_a_row_are_an_error_that_names_their_norms():
    training = Training(short(max_in_a_row=2))
    training.windows([1.0] * 10)
    training.windows([50.0, 60.0, 1.0, 51.0])  # an ordinary one ends a row
    training.window(61.0)
    with pytest.raises(FloatingPointError) as caught:
        training.window(70.0)
    message = str(caught.value)
    assert "at most `max_in_a_row = 2` windows in a row" in message
    assert "51, 61, 70 are above 1.06" in message
    assert "at step 15" in message
    assert "\n" not in message


def test_a_window_that_is_not_finite_neither_counts_nor_ends_a_row():
    training = Training(short(max_in_a_row=2))
    training.windows([1.0] * 10)
    training.windows([50.0, nan, inf, 50.0, nan])
    assert not is_left_out(training)
    assert float(training.strategy.statistics["spikes"]) == 2
    with pytest.raises(FloatingPointError):
        training.window(50.0)


@cases("loss_scale", [None, 8.0], ids=str)
def test_a_norm_that_float32_cannot_hold_is_a_spike_once_it_has_learnt(loss_scale: float | None):
    training = Training(short(max_in_a_row=2), dtype=torch.float32)
    training.window(1e25)
    training.windows([1.0] * 8)
    assert float(training.strategy.statistics["spikes"]) == 0
    for _ in range(2):
        training.window(1e25, loss_scale=loss_scale)
        assert not any(p.grad is not None and p.grad.isfinite().any() for p in training.model.parameters())
    assert float(training.strategy.statistics["spikes"]) == 2
    training.windows([nan, inf])
    with pytest.raises(FloatingPointError, match=r"the gradient norms inf, inf, inf are above 1\.06"):
        training.window(1e25)


def test_an_engine_begins_without_the_spikes_of_another():
    training = Training(short(max_in_a_row=2))
    training.windows([1.0] * 10 + [50.0, 50.0])
    again = Training(training.strategy)
    assert (again.state()["spikes"], again.state()["row"]) == (0, [])
    again.windows([1.0] * 10 + [50.0, 50.0])
    assert float(again.strategy.statistics["spikes"]) == 2


def test_a_row_goes_on_after_a_resume():
    trained, resumed = Training(short(max_in_a_row=2)), Training(short(max_in_a_row=2))
    trained.windows([1.0] * 10 + [50.0, 50.0])
    resumed.engine.load_state_dict(deepcopy(trained.engine.state_dict()))
    assert float(resumed.strategy.statistics["spikes"]) == 2
    with pytest.raises(FloatingPointError):
        resumed.window(50.0)


# ---------------------------------------------------------------- faults of OLMo's code
class Upstream:
    """OLMo's rule, with momentum: a step that is skipped is multiplied by zero."""

    def __init__(self, *, history: int = 16, deviations: float = 6.0) -> None:
        self.history, self.deviations, self.norms = history, deviations, list[float]()
        self.weight, self.moment = torch.ones(4), torch.zeros(4)

    def window(self, norm: float) -> bool:
        """Return whether a window is skipped."""
        past = torch.tensor(self.norms[-self.history :])
        self.norms.append(norm)
        passes = len(past) < self.history // 2 or bool(norm <= past.mean() + self.deviations * past.std())
        self.moment = self.moment.lerp(torch.full((4,), norm / 2), 0.1 * passes)
        self.weight = self.weight - 0.1 * passes * self.moment
        return not passes


def test_a_window_that_is_not_finite_leaves_no_nan_behind():
    upstream, run = Upstream(), Real(OPTIMIZERS["AdamW"], short(), nonfinite="skip")
    for size in (1.0, 1.1, 0.9) * 4:
        upstream.window(size)
        run.window(size)
    before = run.everything()
    run.window(nan)
    assert upstream.window(nan)
    assert all(torch.equal(value, before[key]) for key, value in run.everything().items())
    assert upstream.weight.isnan().all()


def test_a_nan_does_not_leave_out_everything_after_it():
    upstream, training = Upstream(), Training(short())
    for norm in [*ordinary(12, seed=1), nan]:
        upstream.window(norm)
        training.window(norm)
    for norm in ordinary(5, seed=2):
        training.window(norm)
        assert not is_left_out(training)
        assert upstream.window(norm)


def test_a_spike_does_not_make_room_for_the_next():
    upstream, training = Upstream(), Training(short())
    for norm in ordinary(12, seed=1):
        upstream.window(norm)
        training.window(norm)
    for theirs in (True, False):
        training.window(100.0)
        assert is_left_out(training)
        assert upstream.window(100.0) == theirs


def test_the_history_is_saved():
    trained, resumed, upstream = Training(short()), Training(short()), Upstream()
    trained.windows(ordinary(12, seed=1))
    resumed.engine.load_state_dict(deepcopy(trained.engine.state_dict()))
    resumed.window(100.0)
    assert is_left_out(resumed)
    assert not upstream.window(100.0)  # there is nothing to save


# ---------------------------------------------------------------- law 11
def test_after_anything_ordinary_windows_bring_back_a_fresh_threshold():
    generator = np.random.default_rng(1)
    kinds = [norm for norm in NASTY if norm != 1e-8]  # of which ordinary windows would be spikes: an error
    hurt, fresh, later = Training(SpikeSkip()), Training(SpikeSkip()), ordinary(200, seed=1)
    hurt.windows([float(norm) for norm in generator.choice(kinds, size=100)])
    assert hurt.windows(later)["all"] == pytest.approx(fresh.windows(later)["all"])


def test_norms_far_below_do_not_make_it_start_anew():
    training = Training(short())
    training.windows([1.0] * 10 + [1e-5] * 20)
    assert training.state()["count"].tolist() == [30]


def test_what_is_left_out_or_not_finite_leaves_no_trace():
    training = Training(short())
    training.windows(ordinary(12, seed=1))
    before = training.state()
    for norm in (0.0, nan, inf, 1e-30, 1e4):
        training.window(norm)
    assert_same_state({**training.state(), "spikes": 0, "row": []}, before)


# ---------------------------------------------------------------- another length of history
@cases("length", [8, 12, 30])
def test_a_state_with_another_length_keeps_the_newest_norms(length: int):
    norms = ordinary(25, seed=4, spread=0.05)
    trained, resumed = Training(short()), Training(short(history=length))
    trained.windows(norms)
    resumed.strategy.load_state_dict(trained.state())
    kept = norms[-16:][-length:]
    expected = np.mean(kept) + 6 * np.std(kept, ddof=1)
    assert resumed.window(1.0)["all"] == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- arguments
@cases(
    ("arguments", "message"),
    [
        ({"deviations": 0.0}, r"`deviations` should be positive. Found `deviations = 0.0`."),
        ({"deviations": nan}, r"`deviations` should be positive. Found `deviations = nan`."),
        ({"history": 1}, r"`history` should be an integer from 2 to 1000000. Found `history = 1`."),
        ({"history": 10**7}, r"`history` should be an integer from 2 to 1000000. Found `history = 10000000`."),
        ({"warmup_steps": 1}, r"`warmup_steps` should be an integer of at least 2. Found `warmup_steps = 1`."),
        ({"max_in_a_row": 0}, r"`max_in_a_row` should be a positive integer. Found `max_in_a_row = 0`."),
        ({"max_in_a_row": 1.5}, r"`max_in_a_row` should be a positive integer. Found `max_in_a_row = 1.5`."),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=f"^Parameter {message}$"):
        SpikeSkip(**arguments)


def test_an_infinite_number_of_deviations_leaves_out_nothing():
    training = Training(short(deviations=inf))
    training.windows([*ordinary(12, seed=1), 1e6])
    assert not is_left_out(training)
    assert not isnan(training.left(NAMES[0]))
