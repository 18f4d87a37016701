"""Norms of windows and components that have none."""

import torch
from torch import nn

from lightning_sparsegrad import Chain, ComponentNormClip, GradientEngine, GradientTransform, NamedParameters
from lightning_sparsegrad.explain._norms import Norms, NormTable
from lightning_sparsegrad.transforms.base import Gradients, Window


class Calibrated(GradientTransform):
    """A strategy that calibrates in its second window, and drops one tensor."""

    phases = frozenset({"calibration", "gradient"})

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        pass

    def dropped(self, window: Window) -> frozenset[str]:
        return frozenset({"0.weight"})

    def calibrates(self, window: Window) -> bool:
        return window.step == 1


def measured(windows: int, gradient: float = 3.0) -> NormTable:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    engine = GradientEngine(model, Chain([Calibrated(), ComponentNormClip(0.5)]))
    norms = Norms(engine)
    for step in range(windows):
        for tensor in model.parameters():
            tensor.grad = torch.full_like(tensor, gradient)
        with engine.window(step):
            engine.apply_()
        norms.add()
    return norms.table()


def test_a_component_without_norms_has_no_share() -> None:
    table = measured(1)
    dropped, kept, _ = table.layers
    assert (dropped.norms, set(dropped.clipped.values())) == (0, {None})
    assert (kept.norms, kept.clipped["2"], kept.clipped["5"]) == (1, 1.0, 0.0)
    (clipped,) = [line for line in str(table).partition("clipped at")[2].splitlines() if line.startswith("0 ")]
    assert set(clipped.split()[1:]) == {"-"}


def test_a_window_that_calibrates_is_not_counted() -> None:
    assert "norms of 1 window without a step" in str(measured(2))
    table = measured(3)
    assert table.windows == 2
    assert [row.norms for row in table.components] == [0, 2]


def test_one_undefined_norm_is_singular() -> None:
    assert "quantiles leave out 1 infinite or undefined norm\n" in str(measured(1, float("nan")))
