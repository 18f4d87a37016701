"""Clips that learn: each equals its slow reference through anything, recovers, and learns only from steps."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_sparsegrad import AdaGC, AutoClip, Chain, ConfigurationError, GradDrop, GradientEngine, ZClip
from lightning_sparsegrad.transforms import AdaptiveNormClip
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.clips.adaptive_norm_clip import State
from tests.cases import cases
from tests.transforms.learners import CLIPS, ROLES, Clip
from tests.transforms.norms import (
    NAMES,
    NASTY,
    Norms,
    Slowly,
    Training,
    assert_same_state,
    is_ordinary,
    nasty,
    ordinary,
)
from tests.transforms.small import assert_same_bits, on_one_thread, snapshot

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)
each_clip = cases("clip", CLIPS, ids=str)
KINDS = (AutoClip, ZClip, AdaGC)
KIND_NAMES = [kind.__name__ for kind in KINDS]


def everywhere(norm: float) -> Norms:
    return dict.fromkeys(NAMES, norm)


# ---------------------------------------------------------------- the definition
@each_clip
def test_it_equals_its_slow_reference_through_anything(clip: Clip):
    equals_the_reference(clip, ROLES)


@pytest.mark.long
@each_clip
@cases("components", ["global", "tensor"])
@cases("seed", range(1, 4))
def test_it_equals_its_slow_reference_through_more(clip: Clip, components: str, seed: int):
    equals_the_reference(clip, components, seed=seed)


def equals_the_reference(clip: Clip, components: Any, *, seed: int = 0) -> None:
    training, slow = Training(clip.make(components)), Slowly(clip.slow(components))
    generator, clipped = np.random.default_rng(1), 0
    for norms in nasty(200, seed, share=0.08 if components == "global" else 0.25):
        expected = slow.expected(training, norms)
        steps = bool(generator.random() < 0.85)
        thresholds = training.window(norms, steps=steps)
        for name, threshold in slow.reference.thresholds.items():
            assert thresholds[name] == pytest.approx(threshold, rel=1e-6, nan_ok=True), (training.step, name)
        if steps:
            slow.reference.stepped()
        assert thresholds.keys() == slow.reference.thresholds.keys()
        for name, left in expected.items():
            gradient = training.model.get_parameter(name).grad
            assert (gradient is None) == (left is None)
            if gradient is not None and left is not None:
                assert_close(gradient, left, rtol=1e-6, atol=0, equal_nan=True)
                clipped += is_ordinary(norms) and float(gradient.norm()) < 0.999 * (norms[name] or 0.0)
    assert clipped > 10


@each_clip
def test_float32_and_a_loss_scale_make_no_difference(clip: Clip):
    double, single = Training(clip.make("global")), Training(clip.make("global"), dtype=torch.float32)
    half = Training(clip.make("global"), dtype=torch.float32)
    for norm in [*ordinary(40, seed=2, spikes=0.1), 1e-30, 0.0, *ordinary(20, seed=3, spikes=0.1)]:
        expected = double.window(norm)
        assert single.window(norm) == pytest.approx(expected, rel=1e-4)
        assert half.window(norm, loss_scale=1024.0) == pytest.approx(expected, rel=1e-4)
        assert half.left() / 1024 == pytest.approx(double.left(), rel=1e-4, abs=1e-29)


@cases("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_norms_of_half_precision_are_not_rounded_to_it(dtype: torch.dtype):
    training = Training(AutoClip(100.0), dtype=dtype)
    training.window(dict.fromkeys(NAMES, 1.0))
    assert float(training.strategy.statistics["norm_before/all"]) == pytest.approx(3**0.5, rel=1e-6)
    assert abs(float(torch.tensor(3**0.5, dtype=dtype)) / 3**0.5 - 1) > 1e-6


@each_clip
def test_it_clips_to_the_threshold_itself(clip: Clip):
    training = Training(clip.make("tensor"))
    training.windows([everywhere(1e-9)] * 20)
    bound = training.window(everywhere(1e-8))[NAMES[0]]
    assert training.left() == pytest.approx(bound, rel=1e-12)  # a constant in the divisor would show
    assert bound < 1e-8


@each_clip
def test_a_component_within_its_threshold_keeps_its_bits(clip: Clip):
    training = Training(clip.make("tensor"))
    training.windows([everywhere(norm) for norm in ordinary(15, seed=1)])
    training.fill(everywhere(1e-3))
    before = snapshot(training.model)
    training.window(everywhere(1e-3))
    assert_same_bits(snapshot(training.model), before)
    assert [float(factor) for factor in training.strategy.factors.values()] == [1.0] * 3


# ---------------------------------------------------------------- law 11: learn only from what happened
def restless(count: int, seed: int, nasty: Sequence[float]) -> list[float]:
    """Return any mixture of nasty norms."""
    generator = np.random.default_rng(seed)
    kinds = generator.choice(nasty, size=generator.integers(1, len(nasty) + 1), replace=False)
    return [float(norm) for norm in generator.choice(kinds, size=count)]


@cases("make", [AutoClip, partial(ZClip, max_norm=inf), AdaGC], ids=KIND_NAMES)
def test_after_anything_ordinary_windows_bring_back_a_fresh_threshold(make: Any):
    recovers(make, 1)


@pytest.mark.long
@cases(
    "make",
    [
        *(partial(AutoClip, percentile) for percentile in (0.0, 50.0, 90.0)),
        *(partial(ZClip, mode=mode, max_norm=inf) for mode in ("reciprocal", "percentile", "mean")),
        partial(ZClip, max_norm=inf, components="tensor"),
        *(partial(AdaGC, components=components) for components in ("global", ROLES)),
        partial(AdaGC, max_norm=inf),
    ],
    ids=str,
)
def test_after_any_mixture_ordinary_windows_bring_back_a_fresh_threshold(make: Any):
    # a mean that is too low stays, as in the authors' code: `"mean"` learns nothing higher
    without = {1e-8} if make.keywords.get("mode") == "mean" else set()
    for seed in range(5):
        recovers(make, seed, [norm for norm in NASTY if norm not in without])


def recovers(make: Callable[[], Any], seed: int, nasty: Sequence[float] = NASTY) -> None:
    hurt, fresh, later = Training(make()), Training(make()), ordinary(200, seed + 100)
    hurt.windows([everywhere(norm) for norm in restless(100, seed, nasty)])
    usual = [everywhere(norm) for norm in [*later, 50.0]]
    thresholds, expected = hurt.windows(usual), fresh.windows(usual)
    assert expected.keys() == thresholds.keys()
    for name, threshold in expected.items():
        assert threshold / 2 <= thresholds[name] <= threshold * 2, seed


@each_clip
def test_what_float32_cannot_square_leaves_no_trace(clip: Clip):
    training = Training(clip.make("tensor"))
    training.windows([everywhere(norm) for norm in ordinary(15, seed=4)])
    before = training.state()
    for norm in (0.0, nan, inf, 1e-30, 1e30):
        training.window(everywhere(norm))
        assert_same_state(training.state(), before)


@each_clip
def test_an_undefined_norm_is_not_hidden_from_a_scaler(clip: Clip):
    training = Training(clip.make("tensor"), dtype=torch.float32)
    training.windows([everywhere(norm) for norm in ordinary(15, seed=4)])
    for bad in (nan, inf):
        training.window({NAMES[0]: bad, NAMES[1]: 1.0, NAMES[2]: 1.0}, loss_scale=8.0, steps=False)
        gradient = training.model.get_parameter(NAMES[0]).grad
        assert gradient is not None
        assert not gradient.isfinite().any()


@each_clip
def test_a_window_without_a_step_teaches_nothing(clip: Clip):
    training = Training(clip.make("global"))
    training.windows(ordinary(15, seed=4))
    before, kept = training.state(), training.window(1.0, steps=False)
    for _ in range(20):
        training.window(50.0, steps=False)
    assert training.window(1.0, steps=False) == kept
    training.optimizer.found_inf = torch.ones(())  # of a fused optimizer that is stepped in vain
    training.window(50.0)
    assert_same_state(training.state(), before)
    training.optimizer.found_inf = torch.zeros(())
    training.window(2.0)
    with pytest.raises(AssertionError):
        assert_same_state(training.state(), before)


@each_clip
@cases("factor", [1e5, 1e-5], ids=["above", "below"])
def test_it_starts_anew_after_16_norms_far_from_what_it_knows(clip: Clip, factor: float):
    training, fresh = Training(clip.make("tensor")), Training(clip.make("tensor"))
    training.windows([everywhere(norm) for norm in ordinary(45, seed=5, size=1e-4)])
    far = [everywhere(norm * 1e-4 * factor) for norm in ordinary(35, seed=6)]
    training.windows(far[:16])
    for norms in far[16:]:
        assert training.window(norms) == pytest.approx(fresh.window(norms), rel=1e-12)


def test_each_component_has_a_warmup_of_its_own():
    for clip in CLIPS:
        training, late = Training(clip.make("tensor")), Training(clip.make("tensor"))
        for norm in ordinary(30, seed=7):
            training.window({NAMES[0]: norm, NAMES[1]: None, NAMES[2]: 0.0})
        for norm in ordinary(20, seed=8):
            norms = {NAMES[0]: None, NAMES[1]: norm, NAMES[2]: norm}
            assert training.window(norms) == pytest.approx(late.window(norms), rel=1e-12), clip


# ---------------------------------------------------------------- accumulation
@each_clip
def test_it_sees_the_sum_of_a_window_and_no_parts_of_it(clip: Clip):
    def losses(model: nn.Module, count: int) -> list[torch.Tensor]:
        weight = model.get_parameter(NAMES[0])
        return [weight.sum() / 2 * size for size in (3.0, -1.0, 0.5)[:count]]

    thresholds = []
    for count in (1, 3):
        training = Training(clip.make("global"))
        for step in range(20):
            training.model.zero_grad()
            with training.engine.window(step):
                for loss in losses(training.model, count):
                    torch.autograd.backward(loss * (2.5 / 3.0 if count == 1 else 1.0))
                training.engine.apply_()
            training.optimizer.step()
            assert float(training.strategy.statistics["norm_before/all"]) == pytest.approx(2.5)
        thresholds.append({name: float(value) for name, value in training.strategy.thresholds.items()})
    assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-12)


# ---------------------------------------------------------------- components by role
def test_patterns_group_parameters_by_role():
    """The norm of a group is that of its accumulated gradient, and nothing decays from zero."""
    training = Training(AdaGC(1.05, warmup_steps=3, max_norm=inf, components=ROLES))
    training.windows([{NAMES[0]: 3.0, NAMES[1]: 4.0, NAMES[2]: 7.0}] * 4)
    thresholds = training.window({NAMES[0]: 30.0, NAMES[1]: 40.0, NAMES[2]: 1.0})
    assert thresholds == pytest.approx({"weights": 1.05 * 5.0, "biases": 1.05 * 7.0})
    assert (training.left(NAMES[0]), training.left(NAMES[1])) == pytest.approx((1.05 * 3, 1.05 * 4))
    assert training.left(NAMES[2]) == pytest.approx(1.0)


# ---------------------------------------------------------------- chains and engines
def test_behind_a_mask_it_learns_from_what_the_mask_left():
    training = Training(Chain({"mask": GradDrop(0.5, seed=1), "clip": AutoClip(99.0)}))
    alone = Training(AutoClip(99.0))
    for _ in range(5):
        alone.window(everywhere(1.0))
        training.fill(everywhere(1.0))
        with training.engine.window(training.step):
            training.engine.apply_()
        training.optimizer.step()
        training.step += 1
    statistics = training.engine.statistics
    assert 0 < float(statistics["threshold/all"]) < float(alone.strategy.thresholds["all"])


def test_an_engine_without_an_optimizer_is_refused():
    engine = GradientEngine(nn.Linear(2, 2), AutoClip())
    with pytest.raises(ConfigurationError, match=r"should be attached for `AutoClip"):  # noqa: SIM117
        with engine.window(0):
            engine.apply_()


@each_clip
def test_it_reports_every_component(clip: Clip):
    training = Training(clip.make("tensor"))
    training.windows([everywhere(norm) for norm in ordinary(15, seed=1)])
    thresholds = training.window({NAMES[0]: 1.0, NAMES[1]: 500.0, NAMES[2]: None})
    statistics = training.engine.statistics
    kinds = ("norm_before", "norm_after", "threshold")
    assert statistics.keys() == {"clipped", *(f"{kind}/{name}" for kind in kinds for name in NAMES[:2])}
    for name in NAMES[:2]:
        assert float(statistics[f"threshold/{name}"]) == thresholds[name]
        assert float(statistics[f"norm_after/{name}"]) == pytest.approx(training.left(name), rel=1e-6)
    assert float(statistics["norm_before/" + NAMES[1]]) == 500
    assert 0 < float(statistics["clipped"]) <= 1
    assert isfinite(thresholds[NAMES[1]])


class Mean(AdaptiveNormClip):
    """A user's clip to the mean norm so far, as it should be."""

    def fresh(self) -> dict[str, torch.Tensor]:
        return {"mean": torch.zeros((), dtype=torch.float64)}

    def thresholds_of(self, state: State, norms: torch.Tensor, window: Window) -> torch.Tensor:
        return torch.where(state["count"] > 0, state["mean"], inf)

    def after(self, state: State, norms: torch.Tensor, norms_left: torch.Tensor) -> State:
        return {"mean": state["mean"] + (norms - state["mean"]) / (state["count"] + 1)}

    def level(self, state: State) -> torch.Tensor:
        return state["mean"]


class Forgetful(Mean):
    def after(self, state: State, norms: torch.Tensor, norms_left: torch.Tensor) -> State:
        return {"maen": norms}


class OneForAll(Mean):
    def thresholds_of(self, state: State, norms: torch.Tensor, window: Window) -> torch.Tensor:
        return state["mean"].sum()


class Counting(Mean):
    def fresh(self) -> dict[str, torch.Tensor]:
        return {**super().fresh(), "count": torch.zeros(())}


def test_a_users_clip_learns():
    training = Training(Mean("tensor"))
    assert training.windows([everywhere(norm) for norm in (3.0, 1.0, 50.0)]) == dict.fromkeys(NAMES, 2.0)


@cases(
    ("kind", "message"),
    [
        (Forgetful, r"`Forgetful.after` should return the tensors of `fresh`, \['mean'\]. Found \['maen'\].$"),
        (OneForAll, r"`OneForAll.thresholds_of` should return a threshold .* of shape \(3,\). Found shape \(\).$"),
        (Counting, r"`Counting.fresh` should use other names than \['count', 'far'\].* Found \['count'\].$"),
    ],
    ids=["after", "thresholds_of", "fresh"],
)
def test_a_users_clip_with_a_mistake_is_refused(kind: type[AdaptiveNormClip], message: str):
    with pytest.raises(ConfigurationError, match=message):
        Training(kind("tensor")).window(everywhere(1.0))


# ---------------------------------------------------------------- arguments
@cases("kind", KINDS, ids=lambda kind: kind.__name__)
def test_components_that_do_not_exist_are_refused(kind: Any):
    with pytest.raises(ConfigurationError, match=r"`components` should be one of .*'global'.* Found .*'globl'"):
        kind(components="globl")
    with pytest.raises(ConfigurationError, match=r"`components`"):
        kind(components={})
