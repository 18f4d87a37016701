"""AdaGC: another implementation on ordinary norms, where the authors' code fails, groups of parameters by role."""

from collections.abc import Sequence
from math import inf, nan, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_sparsegrad import AdaGC, ConfigurationError, Linear, TopDown
from tests.cases import cases
from tests.transforms.learners import ROLES
from tests.transforms.norms import NAMES, Norms, Tensors, Training, ordinary
from tests.transforms.small import on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)
FIRST, SECOND, BIAS = NAMES


class Upstream:
    """The authors' algorithm on the norms of tensors, with the 1e-6 in its divisor, zeros and NaN as they come."""

    def __init__(self, *, warmup_steps: int = 100, max_norm: float = 1.0) -> None:
        self.warmup_steps, self.max_norm, self.step = warmup_steps, max_norm, 0
        self.gamma = dict.fromkeys(NAMES, inf)

    def window(self, norms: Norms) -> dict[str, float]:
        """Return the norms that are left."""
        self.step += 1
        everything = sqrt(sum((norm or 0.0) ** 2 for norm in norms.values()))
        left = {}
        for name, norm in norms.items():
            if norm is None:
                continue
            if self.step <= self.warmup_steps:
                left[name] = norm * min(1.0, self.max_norm / (everything + 1e-6))
                self.gamma[name] = left[name] if left[name] != left[name] else min(self.gamma[name], left[name])
            else:
                bound = 1.04 * self.gamma[name]
                left[name] = norm * bound / (norm + 1e-6) if norm > bound else norm
                self.gamma[name] = 0.99 * self.gamma[name] + 0.01 * left[name]
        return left


class Theirs:
    """The optimizer of another package, without momentum, so that it keeps the clipped gradients as its moments."""

    def __init__(self, **options: Any) -> None:
        package = pytest.importorskip("pytorch_optimizer", reason="another implementation of AdaGC")
        self.model = Tensors()
        self.optimizer = package.AdaGC(
            self.model.parameters(), betas=(0.0, 0.999), beta=0.99, lambda_rel=1.04, weight_decay=0.0, **options
        )

    def window(self, norms: Norms) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.grad = torch.full_like(parameter, (norms[name] or 0.0) / 2)
        self.optimizer.step()

    def left(self, name: str) -> Tensor:
        moment: Tensor = self.optimizer.state[self.model.get_parameter(name)]["exp_avg"]
        return moment

    def gamma(self, name: str) -> float:
        return float(self.optimizer.state[self.model.get_parameter(name)]["gamma"])


def left_after(run: Training | Upstream, windows: Sequence[Norms], name: str) -> float:
    for norms in windows:
        left = run.window(norms)
    return run.left(name) if isinstance(run, Training) else left[name]


def usual(count: int, seed: int = 1, *, size: float = 1.0, **changed: float | None) -> list[Norms]:
    """Return norms of all tensors; `first`, `second` and `bias` may be other than ordinary."""
    others = {NAMES[("first", "second", "bias").index(name)]: value for name, value in changed.items()}
    columns = (ordinary(count, 10 * seed + i, size=size * share) for i, share in enumerate((0.3, 0.5, 0.1)))
    return [{**dict(zip(NAMES, norms, strict=True)), **others} for norms in zip(*columns, strict=True)]


# ---------------------------------------------------------------- the definition
def test_it_equals_the_algorithm_on_ordinary_norms():
    training, upstream, clipped = (
        Training(AdaGC(warmup_steps=50, max_norm=0.6)),
        Upstream(warmup_steps=50, max_norm=0.6),
        0,
    )
    for norms in usual(200):
        thresholds, left = training.window(norms), upstream.window(norms)
        for name in NAMES:
            assert training.left(name) == pytest.approx(left[name], rel=1e-4)  # of the 1e-6
            clipped += thresholds[name] < 0.999 * (norms[name] or 0.0)
    assert clipped > 100


def test_norms_far_above_max_norm_end_the_warmup_too():
    training = Training(AdaGC(warmup_steps=20))
    training.windows(usual(40, size=1e6))
    assert training.state()["count"].tolist() == [40] * 3
    training.windows(usual(20, size=1e-5))  # and yet it starts anew where the averages are far from all that comes
    assert training.state()["count"].max() < 10


def test_max_norm_may_follow_training():
    training = Training(AdaGC(max_norm=Linear(1.0, 0.2), components="global"), total_steps=5)
    bounds = [training.window(5.0)["all"] for _ in range(5)]
    assert bounds == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


@cases("foreach", [True, False])
def test_it_equals_another_implementation(foreach: bool):
    """Its warm-up is a step shorter than it is told, so that it is told one more; with zeros, it differs."""
    training, theirs = Training(AdaGC(warmup_steps=50)), Theirs(warmup_steps=51, foreach=foreach)
    for norms in usual(200, seed=2, size=3.0):
        training.window(norms)
        theirs.window(norms)
        for name in NAMES:
            assert_close(training.model.get_parameter(name).grad, theirs.left(name), rtol=1e-6, atol=0)
    gamma = [theirs.gamma(name) for name in training.state()["components"]]
    assert training.state()["average"].tolist() == pytest.approx(gamma, rel=1e-6)


# ---------------------------------------------------------------- faults of the authors' code
def test_a_zero_in_the_warmup_does_not_stop_a_tensor_for_good():
    windows = [*usual(1), *usual(1, bias=0.0), *usual(150)]
    assert left_after(Training(AdaGC(max_norm=inf)), windows, BIAS) > 0.05
    assert left_after(Upstream(max_norm=inf), windows, BIAS) == 0


def test_a_clamp_hardly_helps_another_implementation_after_a_zero():
    theirs = Theirs(lambda_abs=1e9, warmup_steps=100)
    for norms in [*usual(1), *usual(1, bias=0.0), *usual(150)]:
        theirs.window(norms)
    assert float(theirs.left(BIAS).norm()) < 1e-6  # of 0.1


@cases("at", [3, 120], ids=["in the warm-up", "after it"])
@cases("bad", [nan, inf], ids=str)
def test_one_bad_window_does_not_stay_in_the_average(at: int, bad: float):
    windows = [*usual(140), *usual(1, bias=10.0)]
    windows[at] = {**windows[at], BIAS: bad}
    assert left_after(Training(AdaGC(max_norm=5.0)), windows, BIAS) < 0.15
    assert left_after(Upstream(max_norm=5.0), windows, BIAS) == 10


def test_a_bad_tensor_does_not_teach_the_others_in_a_warmup():
    for bad in (nan, inf, 1e30):
        ours = Training(AdaGC(max_norm=0.5))
        ours.windows(usual(5))
        before = ours.state()["average"].tolist()
        ours.window({FIRST: bad, SECOND: 0.1, BIAS: 0.02})
        assert ours.state()["average"].tolist() == before


def test_a_tensor_that_comes_late_has_a_warmup_of_its_own():
    late = [*usual(120, bias=None), *usual(3)]
    ours, theirs = Training(AdaGC()), Upstream()
    thresholds = [ours.window(norms) for norms in late]
    assert BIAS not in thresholds[119]
    assert float(ours.state()["count"][ours.state()["components"].index(BIAS)]) == 3
    ours.window({**usual(1)[0], BIAS: 50.0})
    assert ours.left(BIAS) <= 1  # as a clip of the whole gradient leaves it
    assert left_after(theirs, [*late, {**usual(1)[0], BIAS: 50.0}], BIAS) > 49  # its threshold is infinite for good


def test_the_averages_are_saved():
    trained, resumed = Training(AdaGC(max_norm=inf)), Training(AdaGC(max_norm=inf))
    trained.windows(usual(110))
    resumed.engine.load_state_dict(trained.engine.state_dict())
    spike = [{FIRST: 100.0, SECOND: 0.5, BIAS: 0.1}]
    assert left_after(resumed, spike, FIRST) < 0.5
    assert left_after(Upstream(max_norm=inf), spike, FIRST) == 100  # there is nothing to save


def test_very_small_norms_are_clipped_to_their_threshold_too():
    windows = [{name: 1e-8 * (norm or 0.0) for name, norm in norms.items()} for norms in usual(110)]
    windows.append(dict.fromkeys(NAMES, 1e-07))
    training = Training(AdaGC())
    left = left_after(training, windows, FIRST)
    assert left == pytest.approx(float(training.strategy.thresholds[FIRST]), rel=1e-9)
    assert left_after(Upstream(), windows, FIRST) < left / 5


# ---------------------------------------------------------------- groups by role
def test_a_group_of_steady_gradients_is_left_alone():
    """As AGGC groups modules by role; it begins with an average of 0, and so clips what does not change."""
    training = Training(AdaGC(1.2, warmup_steps=1, max_norm=inf, components=ROLES))
    average, theirs = 0.0, []
    for _ in range(20):
        training.window({FIRST: 3.0, SECOND: 4.0, BIAS: 1.0})
        theirs.append(max(0.7 * average / 5.0, 0.9) * 5.0)
        average = 0.95 * average + 0.05 * theirs[-1]
        assert (training.left(FIRST), training.left(SECOND), training.left(BIAS)) == (3.0, 4.0, 1.0)
    assert max(theirs) < 4.6


# ---------------------------------------------------------------- arguments
@cases(
    ("arguments", "message"),
    [
        ({"ratio": 0.9}, r"`ratio` should be at least 1. Found `ratio = 0.9`."),
        ({"ratio": nan}, r"`ratio` should be at least 1. Found `ratio = nan`."),
        ({"beta": 1.0}, r"`beta` should be between 0 and 1, neither of them. Found `beta = 1.0`."),
        ({"beta": -0.1}, r"`beta` should be between 0 and 1, neither of them. Found `beta = -0.1`."),
        ({"warmup_steps": 0}, r"`warmup_steps` should be a positive integer. Found `warmup_steps = 0`."),
        ({"max_norm": -1.0}, r"`max_norm` should be positive. Found `max_norm = -1.0`."),
        ({"max_norm": "1"}, r"`max_norm` should be a number or a schedule. Found `'1'`."),
        ({"max_norm": TopDown(2.0, 1.0)}, r"`max_norm` should be the same at every depth. Found .*"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=f"^Parameter {message}$"):
        AdaGC(**arguments)
