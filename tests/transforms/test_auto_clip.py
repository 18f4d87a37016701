"""AutoClip: numpy's percentile of the norms so far, where the authors' code fails, other lengths of history."""

from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from lightning_sparsegrad import AutoClip, ConfigurationError
from tests.cases import cases
from tests.transforms.norms import NAMES, Tensors, Training, ordinary
from tests.transforms.small import on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


class Upstream:
    """What the authors' code does whenever a backward pass has ended."""

    def __init__(self, percentile: float = 10.0) -> None:
        self.model = Tensors()
        self.percentile, self.history = percentile, list[float]()

    def after_backward(self) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.history.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        clip_grad_norm_(self.model.parameters(), float(np.percentile(self.history, self.percentile)))

    def window(self, norm: float) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.grad = torch.full_like(parameter, norm / 2 if name == NAMES[0] else 0.0)
        self.after_backward()

    def left(self) -> float:
        gradient = self.model.get_parameter(NAMES[0]).grad
        assert gradient is not None
        return float(gradient.norm())


# ---------------------------------------------------------------- the definition
@cases(("percentile", "history"), [(10.0, 256), (37.5, 30), (90.0, 256)])
def test_it_equals_numpys_percentile(percentile: float, history: int):
    training, norms = Training(AutoClip(percentile, history=history)), ordinary(200, seed=1, spikes=0.05)
    for step, norm in enumerate(norms):
        expected = float(np.percentile(norms[: step + 1][-history:], percentile))
        assert training.window(norm)["all"] == pytest.approx(expected, rel=1e-12)
        assert training.left() == pytest.approx(min(norm, expected), rel=1e-12)


def test_it_equals_the_authors_code_on_ordinary_norms():
    training, upstream = Training(AutoClip(25.0)), Upstream(25.0)
    for norm in ordinary(200, seed=2, spikes=0.05):
        training.window(norm)
        upstream.window(norm)
        assert training.left() == pytest.approx(upstream.left(), rel=2e-6)  # of torch's 1e-6 in the divisor


def test_a_percentile_of_100_clips_nothing():
    training = Training(AutoClip(100.0))
    for norm in [*ordinary(40, seed=1, spikes=0.2), 1e15]:
        training.window(norm)
        assert training.left() == norm
        assert float(training.strategy.statistics["clipped"]) == 0


def test_nothing_is_clipped_before_a_norm_has_been_learnt():
    training = Training(AutoClip(0.0))
    for norm in (0.0, 1e-30, 1e25):
        assert training.window(norm) == {"all": inf}
        assert training.left() == pytest.approx(norm)
    assert training.window(3.0) == {"all": 3.0}


# ---------------------------------------------------------------- faults of the authors' code
def test_one_nan_does_not_make_all_later_gradients_nan():
    training, upstream = Training(AutoClip(50.0)), Upstream(50.0)
    for norm in (1.0, 2.0, nan, 1.0, 2.0, 1e3):
        training.window(norm)
        upstream.window(norm)
    assert training.left() == pytest.approx(np.percentile([1.0, 2.0, 1.0, 2.0, 1e3], 50.0))
    assert isnan(upstream.left())


def test_a_window_is_clipped_once_and_not_its_partial_sums():
    training, upstream = Training(AutoClip(0.0)), Upstream(0.0)
    for step in range(3):
        models = (training.model, upstream.model)
        for model in models:
            model.zero_grad()
        with training.engine.window(step):
            for size in (3.0, 2.0):
                for model in models:
                    torch.autograd.backward(model.get_parameter(NAMES[0]).sum() / 2 * size)
                upstream.after_backward()
            training.engine.apply_()
        training.optimizer.step()
    assert training.left() == pytest.approx(5.0, rel=1e-12)
    assert upstream.left() < 3.1
    assert len(upstream.history) == 6
    assert int(training.state()["count"]) == 3


def test_the_history_is_saved():
    trained, resumed = Training(AutoClip(50.0)), Training(AutoClip(50.0))
    trained.windows(ordinary(20, seed=3))
    resumed.engine.load_state_dict(trained.engine.state_dict())
    resumed.window(100.0)
    upstream = Upstream(50.0)  # there is nothing to save
    upstream.window(100.0)
    assert resumed.left() < 2
    assert upstream.left() == pytest.approx(100.0)


# ---------------------------------------------------------------- another length of history
@cases("length", [1, 4, 20])
@cases("count", [3, 13])
def test_a_state_with_another_length_keeps_the_newest_norms(length: int, count: int):
    norms = ordinary(count, seed=4)
    trained, resumed = Training(AutoClip(30.0, history=8)), Training(AutoClip(30.0, history=length))
    trained.windows(norms)
    resumed.strategy.load_state_dict(trained.state())
    kept = norms[-8:][-length:]
    for norm in ordinary(25, seed=5, size=1.2):
        kept = [*kept, norm][-length:]
        assert resumed.window(norm)["all"] == pytest.approx(float(np.percentile(kept, 30.0)), rel=1e-12)


# ---------------------------------------------------------------- arguments
@cases(
    ("arguments", "message"),
    [
        ({"percentile": -1.0}, r"`percentile` should be from 0 to 100. Found `percentile = -1.0`."),
        ({"percentile": 100.5}, r"`percentile` should be from 0 to 100. Found `percentile = 100.5`."),
        ({"percentile": nan}, r"`percentile` should be from 0 to 100. Found `percentile = nan`."),
        ({"percentile": "10"}, r"`percentile` should be from 0 to 100. Found `percentile = '10'`."),
        ({"percentile": True}, r"`percentile` should be from 0 to 100. Found `percentile = True`."),
        ({"history": 0}, r"`history` should be an integer from 1 to 1000000. Found `history = 0`."),
        ({"percentile": 10**400}, r"`percentile` should be from 0 to 100. Found `percentile = 10+`."),
        ({"history": 1_000_001}, r"`history` should be an integer from 1 to 1000000. Found `history = 1000001`."),
        ({"history": 2.5}, r"`history` should be an integer from 1 to 1000000. Found `history = 2.5`."),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=f"^Parameter {message}$"):
        AutoClip(**arguments)
