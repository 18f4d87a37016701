"""ZClip: the authors' package on ordinary norms, and where that package fails."""

from math import inf, nan, sqrt
from typing import Any

import pytest
import torch
import zclip

from lightning_sparsegrad import ConfigurationError, Linear, TopDown, ZClip
from tests.cases import cases
from tests.transforms.norms import NAMES, Tensors, Training, ordinary
from tests.transforms.small import on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

MODES: dict[str, dict[str, Any]] = {  # ours, theirs
    "reciprocal": {"mode": "zscore", "clip_option": "adaptive_scaling"},
    "percentile": {"mode": "percentile"},
    "mean": {"mode": "zscore", "clip_option": "mean"},
}


class Upstream:
    """The authors' package on the model."""

    def __init__(self, *, dtype: torch.dtype = torch.float64, max_norm: float | None = None, **options: Any) -> None:
        self.model, self.clip = Tensors(dtype), zclip.ZClip(max_grad_norm=max_norm, **options)
        self.norm = nan

    def window(self, norm: float) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.grad = torch.full_like(parameter, norm / 2 if name == NAMES[0] else 0.0)
        self.norm = self.clip.step(self.model)

    def left(self) -> float:
        gradient = self.model.get_parameter(NAMES[0]).grad
        assert gradient is not None
        return float(gradient.double().norm())


def ours(**options: Any) -> Training:
    return Training(ZClip(max_norm=inf, **options))


def left_after(training: Training | Upstream, norms: list[float]) -> float:
    for norm in norms:
        training.window(norm)
    return training.left()


# ---------------------------------------------------------------- the definition
@cases(
    ("mode", "max_norm"), [("reciprocal", inf), ("reciprocal", 130.0), ("percentile", inf), ("mean", 130.0)], ids=str
)
def test_it_equals_the_authors_package_on_ordinary_norms(mode: Any, max_norm: float):
    training = Training(ZClip(mode=mode, max_norm=max_norm))
    upstream = Upstream(max_norm=None if max_norm == inf else max_norm, **MODES[mode])
    clipped = 0
    for step, norm in enumerate(ordinary(200, seed=1, size=100.0, spikes=0.05)):
        training.window(norm)
        upstream.window(norm)
        assert training.left() == pytest.approx(upstream.left(), rel=1e-6), step
        clipped += training.left() < 0.999 * norm
    assert clipped >= 8
    state = training.state()
    assert float(state["mean"]) == pytest.approx(upstream.clip.mean, rel=1e-6)
    assert float(state["variance"]) == pytest.approx(upstream.clip.var, rel=1e-5)


def test_max_norm_caps_ordinary_norms_and_does_not_limit_what_is_learnt():
    training = Training(ZClip(warmup_steps=5, max_norm=1.0))
    assert left_after(training, [50.0, 51.0, 49.0, 50.0, 50.0, 50.5]) == pytest.approx(1.0)
    assert float(training.state()["mean"]) == pytest.approx(0.97 * 50 + 0.03 * 50.5)


def test_max_norm_may_follow_training():
    training = Training(ZClip(max_norm=Linear(1.0, 0.2)), total_steps=5)
    bounds = [training.window(5.0)["all"] for _ in range(5)]
    assert bounds == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


# ---------------------------------------------------------------- faults of the authors' package
USUAL = ordinary(24, seed=3)


@cases(
    "norms",
    [[*USUAL, inf, *USUAL], [inf, *USUAL, *USUAL], [*USUAL, *USUAL, nan, *USUAL]],
    ids=["an overflow ends the warm-up", "an overflow begins it", "NaN after it"],
)
def test_one_bad_window_does_not_end_clipping(norms: list[float]):
    spike = [*norms, 1000.0]
    assert left_after(ours(), spike) < 2
    assert left_after(Upstream(), spike) > 999


def test_equal_norms_do_not_make_every_rise_a_spike():
    norms = [1.0] * 60 + [1.01]
    assert left_after(ours(), norms) == 1.01
    assert left_after(Upstream(), norms) < 1.001
    assert left_after(ours(), [1.0] * 60 + [1.5]) < 1.03  # a spike still is one


def test_norms_are_not_rounded_to_the_dtype_of_the_weights():
    training, upstream = Training(ZClip(), dtype=torch.bfloat16), Upstream(dtype=torch.bfloat16)
    norms = {NAMES[0]: 1.0, NAMES[1]: 1.0, NAMES[2]: 1.0}
    training.window(norms)
    for parameter in upstream.model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    theirs = upstream.clip.step(upstream.model)
    assert float(training.strategy.statistics["norm_before/all"]) == pytest.approx(sqrt(3), rel=1e-6)
    assert theirs != pytest.approx(sqrt(3), rel=1e-4)


def test_a_resumed_run_clips_from_its_first_step():
    trained, resumed = ours(), ours()
    left_after(trained, USUAL * 2)
    resumed.engine.load_state_dict(trained.engine.state_dict())
    assert left_after(resumed, [1000.0]) < 2
    assert not hasattr(zclip.ZClip, "state_dict")
    assert left_after(Upstream(), [1000.0]) > 999


# ---------------------------------------------------------------- arguments
@cases(
    ("arguments", "message"),
    [
        ({"z_threshold": 0.0}, r"`z_threshold` should be positive. Found `z_threshold = 0.0`."),
        ({"z_threshold": nan}, r"`z_threshold` should be positive. Found `z_threshold = nan`."),
        ({"mode": "zscore"}, r"`mode` should be .*'reciprocal', 'percentile'.*'mean'.* Found `mode = 'zscore'`."),
        ({"alpha": 1.0}, r"`alpha` should be between 0 and 1, neither of them. Found `alpha = 1.0`."),
        ({"alpha": 0.0}, r"`alpha` should be between 0 and 1, neither of them. Found `alpha = 0.0`."),
        ({"warmup_steps": 0}, r"`warmup_steps` should be a positive integer. Found `warmup_steps = 0`."),
        ({"warmup_steps": 2.0}, r"`warmup_steps` should be a positive integer. Found `warmup_steps = 2.0`."),
        ({"max_norm": 0.0}, r"`max_norm` should be positive. Found `max_norm = 0.0`."),
        ({"max_norm": TopDown(2.0, 1.0)}, r"`max_norm` should be the same at every depth. Found .*"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=f"^Parameter {message}$"):
        ZClip(**arguments)
