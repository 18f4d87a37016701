"""The properties of a window's gradients that a strategy may read."""

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import Chain, GradientEngine, Gradients, GradientTransform, HeadOnly, NamedParameters, Window
from lightning_sparsegrad.transforms.base import run_, scaling_of
from tests.cases import cases
from tests.transforms.small import Small, fill_gradients


class Asking(GradientTransform):
    """Reads everything twice: before and after changing the gradients."""

    def __init__(self) -> None:
        self.norms: list[dict[str, Tensor]] = []
        self.finite: list[bool] = []
        self.weights: dict[str, Tensor] = {}

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self.weights = dict(gradients.weights)
        for _ in range(2):
            self.norms.append(gradients.norms())
            self.finite.append(bool(gradients.finite))
            torch._foreach_mul_(list(gradients.values()), 3.0)
            gradients["head.weight"].view(-1)[0] = torch.inf


@cases("scale", [None, 8.0])
def test_norms_are_in_true_units_and_of_the_moment(scale: float | None):
    model = Small()
    fill_gradients(model)
    expected = {name: float(p.grad.double().norm()) for name, p in model.named_parameters() if p.grad is not None}
    loss_scale = None if scale is None else torch.tensor(scale)
    if scale is not None:
        torch._foreach_mul_([p.grad for p in model.parameters() if p.grad is not None], scale)
    engine = GradientEngine(model, Asking())
    engine.open(0)
    engine.apply_(loss_scale=loss_scale)
    asking = engine.transform
    assert isinstance(asking, Asking)
    before, after = asking.norms
    assert {name: float(norm) for name, norm in before.items()} == pytest.approx(expected, rel=1e-6)
    assert all(norm.shape == () for norm in before.values())
    assert float(after["norm.weight"]) == pytest.approx(3 * expected["norm.weight"])
    assert asking.finite == [True, False]
    assert all(asking.weights[name] is parameter for name, parameter in model.named_parameters())


def test_a_norm_in_half_precision_does_not_overflow():
    gradients = Gradients({"a": torch.full((4,), 300.0, dtype=torch.float16), "b": torch.full((2,), 6e4).half()})
    assert float(gradients.norms()["a"]) == pytest.approx(600, rel=1e-3)
    assert gradients.finite
    assert Gradients({}).norms() == {}
    assert Gradients({}).finite


def test_what_is_lost_is_counted_by_who_drops_it_computed_or_not():
    gradients = Gradients({"a": torch.ones(3), "b": torch.ones(2, 2)}, skipped={"c": 5})
    gradients.lose(["a", "c", "x"], by=1)
    gradients.lose(["a", "b"], by=2)
    assert (gradients.lost_by(1), gradients.lost_by(2), gradients.lost_by(3)) == (8, 4, 0)
    assert sorted(gradients.dropped) == ["a", "b"]
    assert not gradients.skipped
    assert not gradients.numel()


def test_a_strategy_drops_what_it_states_also_where_another_calls_it():
    class Calls(GradientTransform):
        def __init__(self, inner: GradientTransform) -> None:
            self.inner = inner

        def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
            self.inner.bind(parameters, total_steps=total_steps)

        def apply_(self, gradients: Gradients, window: Window) -> None:
            self.inner.apply_(gradients, window)

    left = []
    for transform in (HeadOnly(), Calls(HeadOnly()), Chain([Calls(Chain([HeadOnly()]))])):
        model = Small()
        fill_gradients(model)
        engine = GradientEngine(model, transform)
        with engine.window(0):
            engine.apply_()
        left.append({name for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert left[0] == left[1] == left[2] == {"head.weight", "head.bias", "temperature"}


def test_a_fact_counts_only_about_the_apply_that_it_is_stated_with():
    class Other(HeadOnly):
        def apply_(self, gradients: Gradients, window: Window) -> None:
            super().apply_(gradients, window)

    class Stated(Other):
        factors = {}  # noqa: RUF012

    gradients, window = Gradients({"weight": torch.ones(1)}), Window(0)
    assert scaling_of(HeadOnly()) == {}
    assert scaling_of(Other()) is None
    assert scaling_of(Stated()) == {}
    assert not Other().handles_shards
    assert HeadOnly().handles_shards
    other = Other(layers=["weight"])
    other.bind(
        NamedParameters(nn.ParameterDict({"weight": nn.Parameter(torch.ones(1)), "head": nn.Parameter()})),
        total_steps=None,
    )
    run_(other, gradients, window)
    assert gradients.lost_by(other) == 1
