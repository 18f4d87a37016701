"""ComponentNormClip: components, their thresholds, and the authors' code."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import (
    ComponentNormClip,
    ConfigurationError,
    FusedProjection,
    GradientEngine,
    Linear,
    TopDown,
)
from lightning_sparsegrad.components import Component, NamedParameters, partition
from lightning_sparsegrad.components.partition import ComponentKind
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms import ComponentClip, Window
from tests.cases import cases
from tests.tiny import tiny_bert, tiny_gpt2
from tests.transforms.small import Small, assert_same_bits, snapshot


def _set_random_gradients(model: nn.Module, *, scale: float = 1.0) -> None:
    """Set gradients whose norms differ by orders of magnitude from tensor to tensor."""
    generator = torch.Generator().manual_seed(3)
    for i, parameter in enumerate(model.parameters()):
        gradient = torch.randn(parameter.shape, generator=generator) * 10.0 ** (i % 4 - 3) * scale
        parameter.grad = gradient.to(parameter.dtype)


def _apply(model: nn.Module, transform: ComponentNormClip, **window: Any) -> GradientEngine:
    engine = GradientEngine(model, transform, total_steps=11)
    with engine.window(**{"step": 0, **window}):
        engine.apply_()
    return engine


def _units(gradients: dict[str, Tensor | None], kind: ComponentKind) -> dict[str, list[Tensor]]:
    """Return the components of GPT-2, written by hand."""
    units: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        assert gradient is not None
        if kind == "projection" and "attn.c_attn." in name:
            for part, piece in zip(("query", "key", "value"), gradient.chunk(3, dim=-1), strict=True):
                units[f"{name}.{part}"] = [piece]
        elif kind == "module":
            units.setdefault(name.rpartition(".")[0], []).append(gradient)
        elif kind == "block":
            steps = name.split(".")
            block = (
                f"block {steps[2]}"
                if steps[1] == "h"
                else {"wpe": "embeddings", "ln_f": "block 2", "wte": "head"}[steps[1]]
            )
            units.setdefault(block, []).append(gradient)
        else:
            units[name] = [gradient]
    return units


def _norm(parts: list[Tensor], norm_type: float = 2.0) -> float:
    return float(torch.cat([part.double().flatten() for part in parts]).norm(norm_type))


# ---------------------------------------------------------------- what a component is
@cases("norm_type", [2.0, inf], ids=str)
@cases("kind", ["projection", "tensor", "module", "block"])
def test_every_component_is_clipped_to_the_threshold_and_none_below_it_is_touched(
    kind: ComponentKind, norm_type: float
):
    model = tiny_gpt2()
    _set_random_gradients(model)
    before = _units(snapshot(model), kind)
    norms = {name: _norm(parts, norm_type) for name, parts in before.items()}
    threshold = sorted(norms.values())[len(norms) // 2] * 1.01
    engine = _apply(model, ComponentNormClip(threshold, components=kind, norm_type=norm_type))
    after = _units(snapshot(model), kind)
    for name, norm in norms.items():
        if norm <= threshold:
            assert all(torch.equal(*pair) for pair in zip(after[name], before[name], strict=True)), name
            continue
        assert threshold * (1 - 1e-4) < _norm(after[name], norm_type) <= threshold * (1 + 1e-5), name
        for part, whole in zip(after[name], before[name], strict=True):
            torch.testing.assert_close(part, whole * (threshold / norm), rtol=1e-4, atol=0)
    over = sum(norm > threshold for norm in norms.values())
    statistics = {name: float(value) for name, value in engine.statistics.items()}
    assert 0 < over < len(norms)
    assert statistics.pop("clipped") == pytest.approx(over / len(norms))
    expected = {f"norm_before/{name}": norm for name, norm in norms.items()}
    expected |= {f"norm_after/{name}": min(norm, threshold) for name, norm in norms.items()}
    assert statistics == pytest.approx(expected, rel=1e-4)


def test_components_may_be_named_by_pattern_and_the_first_match_wins():
    model = tiny_gpt2()
    _set_random_gradients(model)
    before = snapshot(model)
    names = {"*.bias": "biases", "transformer.h.0.*": "first", "*": "rest"}
    _apply(model, ComponentNormClip(0.01, components=names))
    after = snapshot(model)
    groups = {
        "biases": [name for name in before if name.endswith(".bias")],
        "first": [name for name in before if name.startswith("transformer.h.0.") and not name.endswith(".bias")],
    }
    groups["rest"] = [name for name in before if name not in groups["biases"] + groups["first"]]
    for members in groups.values():
        assert _norm([g for n in members if (g := before[n]) is not None]) > 0.02
        assert _norm([g for n in members if (g := after[n]) is not None]) == pytest.approx(0.01, rel=1e-3)


def test_a_fused_projection_is_clipped_as_three_separate_ones_would_be():
    fused = tiny_gpt2()
    _set_random_gradients(fused)
    separate = nn.ParameterDict()
    for name, parameter in fused.named_parameters():
        assert parameter.grad is not None
        parts = parameter.grad.chunk(3, dim=-1) if "attn.c_attn." in name else [parameter.grad]
        for i, part in enumerate(parts):
            key = f"{name}.{i}".replace(".", "/")
            separate[key] = nn.Parameter(torch.zeros_like(part))
            separate[key].grad = part.clone(memory_format=torch.contiguous_format)
    _apply(fused, ComponentNormClip(0.1))
    _apply(separate, ComponentNormClip(0.1, components="tensor"))
    for name, parameter in fused.named_parameters():
        assert parameter.grad is not None
        parts = parameter.grad.chunk(3, dim=-1) if "attn.c_attn." in name else [parameter.grad]
        for i, part in enumerate(parts):
            torch.testing.assert_close(part, separate[f"{name}.{i}".replace(".", "/")].grad, rtol=1e-6, atol=0)


def test_without_fused_projections_projection_and_tensor_are_the_same():
    snapshots = []
    for kind in ("projection", "tensor"):
        model = tiny_bert()
        _set_random_gradients(model)
        _apply(model, ComponentNormClip(0.1, components=kind))
        snapshots.append(snapshot(model))
    assert_same_bits(*snapshots)


def test_a_layout_by_pattern_cuts_a_projection_that_is_not_recognised():
    model = nn.ModuleDict({"packed": nn.Linear(3, 10), "output": nn.Linear(3, 3)})
    _set_random_gradients(model, scale=100)
    before = snapshot(model)
    layout = FusedProjection([2, 1], groups=3, names=["gate", "up"])  # of 9 outputs; see below
    with pytest.raises(ConfigurationError, match=r"all 10 outputs of `packed.weight`\. Found `sizes = \[2, 1\]`"):
        _apply(model, ComponentNormClip(0.5, fused={"packed.*": layout}))
    unequal = FusedProjection([6, 1, 3], names=["query", "key", "value"])
    engine = _apply(model, ComponentNormClip(0.5, fused={"packed.*": unequal}))
    assert {name.removeprefix("norm_after/") for name in engine.statistics if name.startswith("norm_after/")} == {
        *(f"packed.{kind}.{part}" for kind in ("weight", "bias") for part in ("query", "key", "value")),
        "output.weight",
        "output.bias",
    }
    for name in ("packed.weight", "packed.bias"):
        whole, gradient = before[name], model.get_parameter(name).grad
        assert whole is not None
        assert gradient is not None
        for rows in (slice(0, 6), slice(6, 7), slice(7, 10)):
            norm = float(whole[rows].norm())
            factor = min(1.0, 0.5 / (norm + 1e-6))
            torch.testing.assert_close(gradient[rows], whole[rows] * factor, rtol=1e-6, atol=0)


# ---------------------------------------------------------------- the authors' definition
@cases("make", [tiny_bert, tiny_gpt2], ids=["BERT", "GPT-2"])
@cases("max_norm", [0.01, 0.05, 1.0, 1e5], ids=str)
@cases("bad", [None, inf, -inf, nan], ids=["finite", "inf", "-inf", "nan"])
def test_by_tensor_it_equals_the_authors_loop(make: Any, max_norm: float, bad: float | None):
    model, theirs = make(), make()
    for each in (model, theirs):
        _set_random_gradients(each)
        if bad is not None:
            for parameter in list(each.parameters())[::5]:
                assert parameter.grad is not None
                parameter.grad.flatten()[-1] = bad
    for parameter in theirs.parameters():
        torch.nn.utils.clip_grad_norm_(parameter, max_norm)
    _apply(model, ComponentNormClip(max_norm, components="tensor"))
    for (name, parameter), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-6, atol=0, equal_nan=True, msg=name)


# ---------------------------------------------------------------- thresholds of their own
def _norms_after(model: nn.Module, transform: ComponentNormClip, **window: Any) -> dict[str, float]:
    _set_random_gradients(model, scale=1e3)  # all over every threshold
    statistics = _apply(model, transform, **window).statistics
    return {n.removeprefix("norm_after/"): float(v) for n, v in statistics.items() if n.startswith("norm_after/")}


def test_an_override_by_parameter_pattern_takes_all_parts_of_a_fused_projection():
    norms = _norms_after(tiny_gpt2(), ComponentNormClip(0.1, overrides={"*.bias": 0.02, "transformer.h.1.*": 0.05}))
    for name, norm in norms.items():
        expected = 0.02 if ".bias" in name else 0.05 if name.startswith("transformer.h.1.") else 0.1
        assert norm == pytest.approx(expected, rel=1e-4), name


def test_an_override_by_component_pattern_takes_one_part_of_a_fused_projection():
    norms = _norms_after(tiny_gpt2(), ComponentNormClip(0.1, overrides={"*.query": 0.02, "*.weight.value": 0.05}))
    assert sum(name.endswith(".query") for name in norms) == 6
    for name, norm in norms.items():
        expected = 0.02 if name.endswith(".query") else 0.05 if name.endswith(".weight.value") else 0.1
        assert norm == pytest.approx(expected, rel=1e-4), name


def test_an_override_finds_a_tied_tensor_by_any_of_its_names():
    norms = _norms_after(tiny_gpt2(), ComponentNormClip(0.1, overrides={"lm_head.weight": 0.03}))
    assert norms["transformer.wte.weight"] == pytest.approx(0.03, rel=1e-4)


def test_an_override_may_lift_the_threshold():
    transform = ComponentNormClip(0.1, components="block", overrides={"embeddings": inf, "head": 5.0})
    norms = _norms_after(tiny_gpt2(), transform)
    assert norms == pytest.approx({"block 0": 0.1, "block 1": 0.1, "block 2": 0.1, "head": 5.0}, rel=1e-4)


@cases(("step", "expected"), [(0, 1.0), (5, 0.55), (10, 0.1)], ids=str)
def test_a_threshold_may_follow_training(step: int, expected: float):
    norms = _norms_after(tiny_bert(), ComponentNormClip(Linear(1.0, 0.1)), step=step)
    assert list(norms.values()) == pytest.approx([expected] * len(norms), rel=1e-4)


# ---------------------------------------------------------------- precision
class Own(Schedule):
    """A user's schedule."""

    level: float

    def __call__(self, progress: float, height: float = 1.0) -> float:
        return self.level

    def bounds(self) -> tuple[float, float]:
        return self.level, self.level


@dataclass
class Unhashable(Own):
    """Cannot be in a set."""

    level: float


@dataclass(frozen=True)
class Comparable(Own):
    """Equals another one."""

    level: float


@cases("kind", [Unhashable, Comparable], ids=lambda kind: kind.__name__)
def test_schedules_need_not_be_hashable_or_different(kind: Any):
    clip = ComponentNormClip(kind(0.5), overrides={"*.bias": kind(0.2), "*.dense.*": kind(0.5)})
    for name, norm in _norms_after(tiny_bert(), clip, step=1).items():
        assert norm == pytest.approx(0.2 if name.endswith(".bias") else 0.5, rel=1e-4), name


@cases("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_norms_of_half_precision_gradients_are_accumulated_in_single(dtype: torch.dtype):
    model = nn.Linear(100, 100, bias=False, dtype=dtype)
    model.weight.grad = torch.full((100, 100), 500.0, dtype=dtype)  # its square overflows in fp16
    engine = _apply(model, ComponentNormClip(3.0))
    assert float(engine.statistics["norm_before/weight"]) == pytest.approx(50_000, rel=1e-5)
    assert float(model.weight.grad.double().norm()) == pytest.approx(3.0, rel=2e-3 if dtype == torch.float16 else 4e-3)


# ---------------------------------------------------------------- refusals
NORM = "should be positive. Found `"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "zero": ({"max_norm": 0}, f"Parameter `max_norm` {NORM}max_norm = 0`."),
    "a negative norm": ({"max_norm": -1.0}, f"Parameter `max_norm` {NORM}max_norm = -1.0`."),
    "an undefined norm": ({"max_norm": nan}, f"Parameter `max_norm` {NORM}max_norm = nan`."),
    "minus infinity": ({"max_norm": -inf}, f"Parameter `max_norm` {NORM}max_norm = -inf`."),
    "a norm in words": ({"max_norm": "1"}, "Parameter `max_norm` should be a number or a schedule. Found `'1'`."),
    "a norm of True": ({"max_norm": True}, "Parameter `max_norm` should be a number or a schedule. Found `True`."),
    "no norm": ({"max_norm": None}, "Parameter `max_norm` should be a number or a schedule. Found `None`."),
    "a schedule that reaches zero": (
        {"max_norm": Linear(1.0, 0.0)},
        f"Parameter `max_norm` {NORM}max_norm = Linear(1, 0, begin=0, finish=1)`.",
    ),
    "a schedule that follows depth": (
        {"max_norm": TopDown(2.0, 1.0)},
        "Parameter `max_norm` should be the same at every depth. Found `max_norm = TopDown(2, 1, width=0.5)`.",
    ),
    "another norm": (
        {"max_norm": 1.0, "norm_type": 1.0},
        "Parameter `norm_type` should be 2.0 or inf. Found `norm_type = 1.0`.",
    ),
    "an undefined norm type": (
        {"max_norm": 1.0, "norm_type": nan},
        "Parameter `norm_type` should be 2.0 or inf. Found `norm_type = nan`.",
    ),
    "a norm type in words": (
        {"max_norm": 1.0, "norm_type": "2"},
        "Parameter `norm_type` should be 2.0 or inf. Found `norm_type = 2`.",
    ),
    "unknown components": (
        {"max_norm": 1.0, "components": "modules"},
        "Parameter `components` should be one of 'projection', 'tensor', 'module', 'block', 'global', "
        "or map patterns to names. "
        "Found `components = 'modules'`. Near matches: `module`.",
    ),
    "no components": (
        {"max_norm": 1.0, "components": {}},
        "Parameter `components` should hold a pattern. Found `components = {}`.",
    ),
    "a negative override": (
        {"max_norm": 1.0, "overrides": {"*.bias": -2.0}},
        f"Parameter `overrides['*.bias']` {NORM}overrides['*.bias'] = -2.0`.",
    ),
    "an override in words": (
        {"max_norm": 1.0, "overrides": {"*.bias": "small"}},
        "Parameter `overrides['*.bias']` should be a number or a schedule. Found `'small'`.",
    ),
    "an override that follows depth": (
        {"max_norm": 1.0, "overrides": {"*": TopDown(2.0, 1.0)}},
        "Parameter `overrides['*']` should be the same at every depth. "
        "Found `overrides['*'] = TopDown(2, 1, width=0.5)`.",
    ),
}


@cases(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_an_argument_outside_its_range_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError) as refused:
        ComponentNormClip(**arguments)
    assert str(refused.value) == message


UNBINDABLE: dict[str, tuple[dict[str, Any], str]] = {
    "an override matches nothing": (
        {"overrides": {"*.qeury": 0.1}},
        "Parameter `overrides` should hold patterns that match a parameter name. Found `*.qeury`",
    ),
    "near matches name components": ({"overrides": {"*.qeury": 0.1}}, ".query`"),
    "an override matches part of a component": (
        {"overrides": {"blocks.0.norm.*": 0.1}, "components": "block"},
        "Parameter `overrides` should match whole components. Found `blocks.0.norm.*`, which matches 2 of the 8 parts "
        "of `block 0`.",
    ),
    "components match nothing": (
        {"components": {"encoder.*": "encoder", "*": "rest"}},
        "Parameter `components` should hold patterns that match a parameter name. Found `encoder.*`",
    ),
    "components leave a parameter out": (
        {"components": {"blocks.*": "blocks"}},
        "Parameter `components` should match every parameter; a last pattern `*` takes the rest. Found 7 without a "
        "match, `empty` among them.",
    ),
    "a layout matches nothing": (
        {"fused": {"*.qkv.*": FusedProjection([4, 4, 4])}},
        "Parameter `fused` should hold patterns that match a parameter name. Found `*.qkv.*`",
    ),
    "a layout without a use": (
        {"fused": {"*": FusedProjection([4, 4, 4])}, "components": "tensor"},
        "Parameter `fused` should be given with `components = 'projection'` only. Found `components = 'tensor'`.",
    ),
}


@cases(("arguments", "message"), UNBINDABLE.values(), ids=UNBINDABLE)
def test_what_does_not_fit_the_model_is_refused(arguments: dict[str, Any], message: str):
    transform = ComponentNormClip(1.0, **arguments)
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(Small(), transform)
    assert message in str(refused.value)


def test_blocks_that_cannot_be_found_are_refused():
    with pytest.raises(ConfigurationError, match="Found no list of blocks in `Linear`"):
        GradientEngine(nn.Linear(2, 2), ComponentNormClip(1.0, components="block"))


def test_a_schedule_needs_the_number_of_steps():
    with pytest.raises(ConfigurationError, match="Parameter `total_steps` should be given for `ComponentNormClip`"):
        GradientEngine(Small(), ComponentNormClip(1.0, overrides={"*.bias": Linear(1.0, 0.5)}))  # type: ignore[dict-item]


class _Halving(ComponentClip):
    """Has an `__init__` of its own, which does not call that of its base class."""

    def __init__(self) -> None:
        pass

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.scaled_components = partition(parameters, "tensor")

    def clip(self, norms: Tensor, components: Sequence[Component], window: Window) -> tuple[Tensor, Tensor]:
        return norms / 2, torch.full_like(norms, 0.5)


def test_a_clip_with_an_init_of_its_own_clips() -> None:
    model = Small()
    _set_random_gradients(model)
    before = snapshot(model)
    engine = GradientEngine(model, _Halving())
    with engine.window(0):
        engine.apply_()
    assert_same_bits(snapshot(model), {name: gradient / 2 for name, gradient in before.items() if gradient is not None})


def test_a_pickle_from_before_clips_remembered_their_gradients_clips() -> None:
    model, other = Small(), Small()
    for each in (model, other):
        _set_random_gradients(each)
    clip = ComponentNormClip(0.01)
    _apply(model, clip)
    older = copy.deepcopy(clip)
    for name in ("_gather", "norm"):
        vars(older).pop(name, None)
    _apply(other, older)
    assert_same_bits(snapshot(other), snapshot(model))
