"""The measurements of the meter, against norms and counts of each tensor before and after."""

from collections.abc import Mapping
from math import inf, isnan, nan
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    Gradients,
    GradientTransform,
    HeadOnly,
    Identity,
    LayerGradDrop,
    Linear,
    NamedParameters,
    SpikeSkip,
    ValueClip,
    Window,
)
from lightning_sparsegrad.components import ComponentSpec, FusedProjection
from lightning_sparsegrad.engine.gradient_meter import GradientMeter
from tests.cases import cases
from tests.engine.helpers import backward, loss_on, tokens_at
from tests.on_meta import META
from tests.transforms.contract import every_row
from tests.transforms.golden import Golden
from tests.transforms.small import (
    WINDOWS,
    Small,
    Snapshot,
    apply,
    assert_same_bits,
    engine_for,
    fill_gradients,
    run,
    set_gradients,
    snapshot,
)

BEFORE, AFTER, CLIPPED, KEPT, THRESHOLD = range(5)


def by_component(meter: GradientMeter, values: Tensor) -> dict[str, Any]:
    return dict(zip([component.name for component in meter.components], values.tolist(), strict=True))


def metered(
    transform: GradientTransform, *, step: int, components: ComponentSpec = "tensor", scale: float | None = None
) -> tuple[dict[str, Tensor], Snapshot, Snapshot]:
    """Return the measurements by component, and the gradients before and after."""
    model = Small()
    engine = engine_for(model, transform)
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1, components=components)
    set_gradients(model, step, scale=scale or 1.0)
    before = snapshot(model)
    apply(engine, step, loss_scale=scale)
    assert meter.last is not None
    assert meter.last.step == step
    values = meter.last.values.unbind(1)
    return dict(zip([c.name for c in meter.components], values, strict=True)), before, snapshot(model)


@every_row
def test_norms_and_shares_are_those_of_each_tensor_and_measuring_changes_nothing(row: Golden) -> None:
    for step in () if row.calibrates else WINDOWS:  # each by itself
        measured, before, after = metered(row.transform, step=step)
        assert_same_bits(after, run(row.transform, steps=[step])[step])
        assert measured.keys() == before.keys()
        for name, values in measured.items():
            was, left = before[name], after[name]
            assert was is not None
            torch.testing.assert_close(values[BEFORE], was.norm())
            torch.testing.assert_close(values[AFTER], torch.zeros(()) if left is None else left.norm())
            count = int(was.count_nonzero())
            kept = 0.0 if left is None else int(left.count_nonzero()) / count if count else 1.0
            assert values[KEPT].item() == pytest.approx(kept, rel=1e-6), name


@cases(
    "transform",
    [
        ComponentNormClip(1.0, components="tensor"),
        ComponentNormClip(1.0, components="block"),
        ComponentNormClip(1.0, overrides={"*.bias": float("inf")}),
        GlobalNormClip(3.0),
        Chain([GradDrop(0.5), ComponentNormClip(0.8)]),
        Chain([LayerGradDrop(0.5), Chain([ComponentNormClip(0.8, components="module")])]),
    ],
    ids=repr,
)
def test_clipped_is_what_a_clip_scaled(transform: GradientTransform) -> None:
    seen = set()
    for step in WINDOWS:
        measured, before, after = metered(transform, step=step)
        for name, values in measured.items():
            was, left = before[name], after[name]
            assert was is not None
            if left is not None and left.numel():
                kept = left != 0
                scaled = bool((left[kept].abs() < was[kept].abs() * (1 - 1e-6)).any())
                assert bool(values[CLIPPED]) == scaled, name
                seen.add(scaled)
            elif left is None:
                assert not values[CLIPPED]
    assert True in seen


class LeavingOut(GradientTransform):
    """Leaves out every window."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        gradients.lose(list(gradients), by=self)


class Halving(GradientTransform):
    """A user's clip, which scales arbitrary entries."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        torch._foreach_mul_(list(gradients.values()), 0.5)

    @property
    def statistics(self) -> dict[str, Tensor]:
        return {"clipped": torch.ones(())}


class HalvingRows(Halving):
    """States what it scales: the first row of each tensor."""

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self._factors = {}
        for name, gradient in gradients.items():
            rows = gradient if gradient.ndim else gradient.view(1)
            self._factors[name] = torch.ones(len(rows))
            self._factors[name][:1] = 0.5
            rows[:1] *= 0.5

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return self._factors


class HalvingMore(HalvingRows):
    """States it for another `apply_`."""

    def apply_(self, gradients: Gradients, window: Window) -> None:
        super().apply_(gradients, window)


@cases("clip", [Halving(), HalvingMore(), ValueClip(0.1)], ids=repr)
def test_what_a_strategy_does_not_say_is_undefined_rather_than_zero(clip: GradientTransform) -> None:
    for transform in (clip, Chain([GradDrop(0.5), clip]), Chain([ComponentNormClip(1.0), clip])):
        measured, _, _ = metered(transform, step=0, components="block")
        assert all(isnan(values[CLIPPED]) for values in measured.values())


class Bounded(Halving):
    """A user's clip with two components, the first of which has no threshold yet."""

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self._thresholds = {"head.weight": torch.tensor(torch.inf), "head.bias": torch.tensor(0.25).double()}

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return {}

    @property
    def thresholds(self) -> Mapping[str, Tensor]:
        return self._thresholds


class BoundedOtherwise(ComponentNormClip):
    """Clips to half of what its base states."""

    def apply_(self, gradients: Gradients, window: Window) -> None:
        super().apply_(gradients, window)
        torch._foreach_mul_(list(gradients.values()), 0.5)


def thresholds_of(transform: GradientTransform, *, step: int = 0, components: ComponentSpec) -> dict[str, float]:
    measured, _, _ = metered(transform, step=step, components=components)
    return {name: float(values[THRESHOLD]) for name, values in measured.items()}


@cases(
    ("transform", "components", "expected"),
    [
        (GlobalNormClip(3.0), "block", {"embeddings": 3.0, "head": 3.0, "block 0": 3.0, "block 1": 3.0}),
        (
            Chain([GradDrop(0.5), ComponentNormClip(0.8, overrides={"head.*": 2.0, "*.1.*": 0.5}), ValueClip(0.1)]),
            "block",
            {"embeddings": 0.8, "head": 0.8, "block 0": 0.8, "block 1": 0.5},
        ),
        (
            ComponentNormClip(0.8, components="block", overrides={"head": inf}),
            {"*head.*": "head", "blocks.*": "blocks", "*": "rest"},
            {"head": nan, "blocks": 0.8, "rest": 0.8},
        ),
        (
            Bounded(),
            {"head.weight": "weight", "head.*": "bias", "*": "rest"},
            {"weight": inf, "bias": 0.25, "rest": nan},
        ),
        (Bounded(), {"head.*": "head", "*": "rest"}, {"head": 0.25, "rest": nan}),
        (BoundedOtherwise(1.0), {"*": "all"}, {"all": nan}),
        (Chain([GradDrop(0.5), ValueClip(0.1), Halving()]), {"*": "all"}, {"all": nan}),
    ],
    ids=repr,
)
def test_a_threshold_is_the_smallest_of_the_components_that_a_row_belongs_to(
    transform: GradientTransform, components: ComponentSpec, expected: dict[str, float]
) -> None:
    assert thresholds_of(transform, components=components) == pytest.approx(expected, nan_ok=True)


def test_a_threshold_is_that_of_the_window() -> None:
    clip = GlobalNormClip(Linear(2.0, 1.0))
    seen = [thresholds_of(clip, step=step, components={"*": "all"})["all"] for step in (0, WINDOWS[-1])]
    assert seen == [2.0, 1.0]


def test_a_threshold_is_infinite_until_it_is_learnt() -> None:
    model = Small()
    engine = engine_for(model, SpikeSkip(3.0, warmup_steps=3))
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1, components={"*": "all"})
    norms: list[float] = []
    for step in range(4):
        set_gradients(model, step)
        apply(engine, step)
        assert meter.last is not None
        (all_values,) = meter.last.values.T
        expected = fmean(norms) + 3 * max(stdev(norms), 0.01 * fmean(norms)) if step == 3 else inf
        assert float(all_values[THRESHOLD]) == pytest.approx(expected, rel=1e-5)
        norms.append(float(all_values[BEFORE]))


def test_what_a_window_without_gradients_leaves_is_on_the_device_of_the_model() -> None:
    model = Small().to(META)
    engine = engine_for(model, LeavingOut())
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
    fill_gradients(model)
    apply(engine, 0)
    assert meter.last is not None
    assert meter.last.values.device == META


def test_a_strategy_says_by_parameter_and_unit_what_it_scales() -> None:
    measured, _, _ = metered(Chain([GradDrop(0.5), HalvingRows()]), step=0)
    assert float(measured["empty"][CLIPPED]) == 0
    assert float(measured["embeddings.weight"][CLIPPED]) == pytest.approx(1 / len(Small().embeddings.weight))
    assert float(measured["temperature"][CLIPPED]) == 1
    measured, _, _ = metered(HalvingRows(), step=0, components="module")
    assert float(measured["embeddings"][CLIPPED]) == pytest.approx(1 / len(Small().embeddings.weight))


def test_parts_of_fused_projections_are_measured_and_clipped_by_themselves() -> None:
    clip = ComponentNormClip(2.4, overrides={"*.query": 100.0})
    measured, before, after = metered(clip, step=0, components="projection")
    fused = before["blocks.0.attention.in_proj_weight"]
    left = after["blocks.0.attention.in_proj_weight"]
    assert fused is not None
    assert left is not None
    clipped = set()
    for index, part in enumerate(("query", "key", "value")):
        values = measured[f"blocks.0.attention.in_proj_weight.{part}"]
        torch.testing.assert_close(values[BEFORE], fused[4 * index : 4 * index + 4].norm())
        torch.testing.assert_close(values[AFTER], left[4 * index : 4 * index + 4].norm())
        assert bool(values[CLIPPED]) == (part != "query")
        clipped.add(bool(values[CLIPPED]))
    assert clipped == {True, False}


def test_parts_are_clipped_by_a_clip_that_cuts_otherwise() -> None:
    clip = ComponentNormClip(
        1e9,
        overrides={"*0*in_proj_weight.second": 0.1},
        fused={"*.in_proj_weight": FusedProjection([2, 2], groups=3, names=["first", "second"])},
    )
    measured, *_ = metered(clip, step=0, components="projection")
    clipped = {name.rpartition(".")[2] for name, values in measured.items() if values[CLIPPED]}
    assert clipped == {"query", "key", "value"}
    clip = ComponentNormClip(
        1e9,
        overrides={"*0*in_proj_weight.first": 0.1},
        fused={"*.in_proj_weight": FusedProjection([6, 6], names=["first", "second"])},
    )
    measured, *_ = metered(clip, step=0, components="projection")
    assert [name.rpartition(".")[2] for name, values in measured.items() if values[CLIPPED]] == ["query", "key"]


def test_components_of_several_tensors_have_the_norm_of_all() -> None:
    measured, before, _ = metered(GradDrop(0.5), step=0, components="block")
    assert list(measured) == ["embeddings", "head", "block 0", "block 1"]
    head = [before[name] for name in ("temperature", "head.weight", "head.bias")]
    whole = torch.cat([tensor.flatten() for tensor in head if tensor is not None])
    torch.testing.assert_close(measured["head"][BEFORE], whole.norm())


def test_norms_are_in_true_units_under_loss_scaling() -> None:
    plain, *_ = metered(ComponentNormClip(1.0), step=0)
    scaled, *_ = metered(ComponentNormClip(1.0), step=0, scale=64.0)
    for name, values in plain.items():
        torch.testing.assert_close(scaled[name], values)


def test_what_is_not_computed_has_no_norm_before() -> None:
    model = Small()
    engine = engine_for(model, HeadOnly())
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=2, components="block")
    for step in range(4):
        with engine.window(step):
            backward(loss_on(model, tokens_at(step)))
            engine.apply_()
        model.zero_grad()
        assert (meter.last.step if meter.last else None) == (None, 1, 1, 3)[step]
    assert meter.last is not None
    values = by_component(meter, meter.last.values.T)
    assert isnan(values["block 0"][BEFORE])
    assert values["block 0"][AFTER : KEPT + 1] == [0, 0, 0]
    assert values["head"][BEFORE] > 0
    assert values["head"][KEPT] == 1


def test_what_has_no_gradient_is_neither_kept_nor_clipped() -> None:
    model = Small()
    engine = engine_for(model, ComponentNormClip(1e-3, components="module"))
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1, components="tensor")
    set_gradients(model, 0)
    model.head.bias.grad = None
    apply(engine, 0)
    assert meter.last is not None
    values = by_component(meter, meter.last.values.T)
    before, after, clipped, kept, threshold = values["head.bias"]
    assert (isnan(before), after, clipped, isnan(kept)) == (True, 0, 0, True)
    assert threshold == pytest.approx(1e-3)  # of the head, to which it belongs
    assert values["head.weight"][CLIPPED : KEPT + 1] == [1, 1]


@cases("skip_dropped", [True, False])
@cases(
    "transform",
    [
        Chain([HeadOnly(), GlobalNormClip(1e-3)]),
        Chain([GlobalNormClip(1e-3), HeadOnly()]),
        Chain([ComponentNormClip(1e-3, components="block"), HeadOnly()]),
    ],
    ids=repr,
)
def test_what_is_dropped_is_not_clipped_computed_or_not(transform: GradientTransform, skip_dropped: bool) -> None:
    model = Small()
    engine = GradientEngine(model, transform, skip_dropped=skip_dropped)
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1, components="block")
    for step in range(2):
        with engine.window(step):
            backward(loss_on(model, tokens_at(step)))
            engine.apply_()
        model.zero_grad()
        assert meter.last is not None
        clipped = by_component(meter, meter.last.values[CLIPPED])
        assert clipped == {"embeddings": 0, "block 0": 0, "block 1": 0, "head": 1}


def test_windows_several_steps_apart_are_looked_at_as_often() -> None:
    engine = engine_for(Small(), Identity())
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=4)
    looks = []
    for step in range(1, 24, 2):
        apply(engine, step - 1)
        looks.append(meter.last.step if meter.last else None)
    assert [step for step in dict.fromkeys(looks) if step] == [4, 8, 12, 16, 20]


def test_a_window_that_is_left_out_delays_no_look() -> None:
    model = Small()
    engine = GradientEngine(model, ComponentNormClip(1.0), nonfinite="skip")
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=2)
    looks = []
    for step in range(6):
        set_gradients(model, step)
        if step == 3 and model.head.bias.grad is not None:
            model.head.bias.grad[0] = torch.nan
        apply(engine, step)
        looks.append(meter.last.step if meter.last else None)
    assert looks == [None, 1, 1, 1, 1, 5]


@cases("value", [torch.inf, torch.nan])
def test_an_overflow_is_measured_as_it_is(value: float) -> None:
    model = Small()
    engine = engine_for(model, ComponentNormClip(1.0))
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1, components="tensor")
    set_gradients(model, 0)
    assert model.head.bias.grad is not None
    model.head.bias.grad[0] = value
    apply(engine, 0)
    assert meter.last is not None
    values = by_component(meter, meter.last.values.T)
    assert values["head.bias"][BEFORE] == pytest.approx(value, nan_ok=True)
    assert isnan(values["head.bias"][AFTER])
    assert values["head.bias"][CLIPPED] == 1


@cases("every", [0, -1, 1.5, True])
def test_a_number_of_windows_is_positive(every: int) -> None:
    engine = engine_for(Small(), GradDrop(0.5))
    with pytest.raises(ConfigurationError, match=r"Parameter `every` should be a positive integer\. Found `every = "):
        GradientMeter(engine.parameters, engine.transform, every=every)


@cases("transform", [Identity(), ComponentNormClip(1.0), GlobalNormClip(1.0)], ids=repr)
def test_nothing_is_read_on_the_host(transform: GradientTransform) -> None:
    """Tensors without data, like those on an accelerator, cannot be read: trying to is an error."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    engine = engine_for(model, transform)
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1, components="module")
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    apply(engine, 0)
    assert meter.last is not None
    assert meter.last.values.shape == (5, 2)
    assert meter.last.values.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        meter.last.values.sum().item()
