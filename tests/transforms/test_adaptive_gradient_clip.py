"""AdaptiveGradientClip: the units of a model, exclusions, and refusals."""

from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_sparsegrad import (
    AdaptiveGradientClip,
    Chain,
    ConfigurationError,
    GradDrop,
    GradientEngine,
    Linear,
    TopDown,
)
from lightning_sparsegrad.components import NamedParameters, find_layers
from lightning_sparsegrad.engine import GradientMeter
from tests.cases import cases
from tests.tiny import tiny_bert, tiny_gpt2
from tests.transforms.small import (
    Small,
    apply,
    assert_same_bits,
    engine_for,
    fill_gradients,
    run,
    set_gradients,
    snapshot,
)


def unit_norms(tensor: Tensor, dim: int = 0) -> Tensor:
    units = tensor.movedim(dim, 0).flatten(1) if tensor.ndim > 1 else tensor.view(1, -1)
    norms: Tensor = torch.linalg.vector_norm(units, dim=1)
    return norms


def gradient_of(model: nn.Module, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient


def clipped(model: nn.Module, transform: AdaptiveGradientClip, *, value: float = 1.0) -> dict[str, Tensor]:
    """Return the gradients that are left of one value everywhere."""
    fill_gradients(model, value)
    apply(engine_for(model, transform), 0)
    return {name: gradient for name, gradient in snapshot(model).items() if gradient is not None}


# ---------------------------------------------------------------- units
@cases("name", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
def test_a_unit_of_conv1d_is_a_column(name):
    model = tiny_gpt2()
    weight = model.get_parameter(f"transformer.h.0.{name}.weight")
    with torch.no_grad():
        weight.mul_(torch.linspace(0.5, 4.0, weight.shape[1]))
    gradient = clipped(model, AdaptiveGradientClip(0.01))[f"transformer.h.0.{name}.weight"]
    assert_close(unit_norms(gradient, dim=1), 0.01 * unit_norms(weight.detach(), dim=1), rtol=1e-5, atol=0)
    assert not torch.allclose(unit_norms(gradient), 0.01 * unit_norms(weight.detach()), rtol=0.01)


def test_a_unit_is_a_row_a_word_or_a_vector():
    model = tiny_bert()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, gradient in clipped(model, AdaptiveGradientClip(0.01, exclude_head=False)).items():
        bounds = 0.01 * unit_norms(weights[name]).clamp(min=1e-3)
        assert_close(unit_norms(gradient), bounds, rtol=1e-5, atol=0, msg=name)


def test_fused_projections_are_clipped_as_their_parts():
    gradients, weights = torch.randn(12, 4), torch.randn(12, 4)
    fused, parts = nn.Linear(4, 12, bias=False), nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
    with torch.no_grad():
        fused.weight.copy_(weights)
        for part, rows in zip(parts, torch.split(weights, 4), strict=True):
            part.get_parameter("weight").copy_(rows)
    fused.weight.grad = gradients.clone()
    for part, rows in zip(parts, torch.split(gradients, 4), strict=True):
        part.get_parameter("weight").grad = rows.clone()
    for model in (fused, parts):
        apply(engine_for(model, AdaptiveGradientClip(0.7, exclude_head=False)), 0)
    assert torch.equal(gradient_of(fused, "weight"), torch.cat([gradient_of(part, "weight") for part in parts]))
    assert not torch.equal(gradient_of(fused, "weight"), gradients)


def test_units_whose_weights_are_zero_move():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    left = clipped(model, AdaptiveGradientClip(0.1, eps=0.5, exclude_head=False))
    assert_close(left["weight"], torch.full((3, 4), 0.1 * 0.5 / 2))
    assert_close(left["bias"].norm(), torch.tensor(0.1 * 0.5))


# ---------------------------------------------------------------- the head
@cases("build", [Small, tiny_bert], ids=["small", "bert"])
def test_the_head_is_left_as_it_is(build):
    model = build()
    layers = find_layers(NamedParameters(model))
    head = {name for name in layers.depths if layers.top_depth(name) == layers.count}
    assert head
    left = clipped(model, AdaptiveGradientClip(1e-6))
    assert {name for name, gradient in left.items() if gradient.numel() and (gradient == 1).all()} == head


def test_the_head_is_clipped_where_it_is_not_left_out():
    left = clipped(Small(), AdaptiveGradientClip(1e-6, exclude_head=False))
    assert all((gradient < 1).all() for gradient in left.values())


def test_a_head_that_is_tied_to_the_embeddings_is_left_as_it_is():
    left = clipped(Small(tied=True), AdaptiveGradientClip(1e-6))
    assert (left["embeddings.weight"] == 1).all()
    assert (clipped(Small(), AdaptiveGradientClip(1e-6))["embeddings.weight"] < 1).all()


def test_a_model_without_blocks_has_no_head_to_leave_out():
    message = r"`exclude_head` should be False .* Found `exclude_head = True` for a `Linear`"
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(nn.Linear(2, 2), AdaptiveGradientClip())
    GradientEngine(nn.Linear(2, 2), AdaptiveGradientClip(exclude_head=False))


# ---------------------------------------------------------------- numbers
@cases("scale", [0.25, 1024.0])
def test_bounds_are_in_true_units_under_a_loss_scale(scale):
    true, scaled = Small(), Small()
    set_gradients(true, 1)
    set_gradients(scaled, 1, scale=scale)
    before = snapshot(true)
    for model, loss_scale in ((true, None), (scaled, scale)):
        apply(engine_for(model, AdaptiveGradientClip(5.0)), 1, loss_scale=loss_scale)
    unscaled = {name: None if grad is None else grad / scale for name, grad in snapshot(scaled).items()}
    assert_same_bits(unscaled, snapshot(true))
    changed = [name for name, old in before.items() if old is None or not torch.equal(gradient_of(true, name), old)]
    assert 0 < len(changed) < len(before)


def test_an_overflow_stays_visible_to_a_scaler():
    model = Small()
    fill_gradients(model)
    gradient = gradient_of(model, "blocks.0.output.weight")
    gradient[2, 1] = inf
    apply(engine_for(model, AdaptiveGradientClip()), 0, loss_scale=65536.0)
    assert gradient[2, 1].isnan()
    assert gradient[[0, 1, 3]].isfinite().all()


def test_an_infinite_share_changes_nothing():
    model = Small()
    set_gradients(model, 1)
    before = snapshot(model)
    engine = engine_for(model, AdaptiveGradientClip(inf))
    apply(engine, 1)
    assert_same_bits(snapshot(model), before)
    assert engine.statistics["clipped"] == 0
    assert engine.transform.factors == {}


def test_weights_are_read_as_they_stand():
    model, transform = Small(), AdaptiveGradientClip(0.01)
    engine = engine_for(model, transform)
    fill_gradients(model)
    apply(engine, 0)
    first = snapshot(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    fill_gradients(model)
    apply(engine, 1)
    before = first["blocks.0.output.weight"]
    assert before is not None
    assert_close(gradient_of(model, "blocks.0.output.weight"), before * 2)


def test_behind_a_mask_it_sees_what_the_mask_left():
    mask, clip = GradDrop(0.5), AdaptiveGradientClip(5.0)
    chained = run(Chain({"mask": mask, "clip": clip}), steps=[3])[3]
    model = Small()
    set_gradients(model, 3)
    for transform in (mask, clip):
        apply(engine_for(model, transform), 3)
    assert_same_bits(chained, snapshot(model))
    alone = run(clip, steps=[3])[3]["blocks.0.output.weight"]
    together = chained["blocks.0.output.weight"]
    assert alone is not None
    assert together is not None
    kept = together != 0
    assert (together[kept].abs() >= alone[kept].abs()).all()
    assert (together[kept] != alone[kept]).any()


# ---------------------------------------------------------------- what it reports
def test_it_reports_the_share_of_units_it_clipped():
    model = nn.Linear(2, 4)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [10.0, 0.0], [1.0, 0.0], [10.0, 0.0]]))
        model.bias.fill_(100.0)
    fill_gradients(model)
    engine = engine_for(model, AdaptiveGradientClip(0.5, exclude_head=False))
    engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
    apply(engine, 0)
    assert engine.statistics["clipped"] == pytest.approx(2 / 5)
    factors = engine.transform.factors
    assert factors is not None
    assert_close(factors["weight"], torch.tensor([0.5 / 2**0.5, 1.0, 0.5 / 2**0.5, 1.0]))
    assert factors["bias"].tolist() == [1.0]
    assert engine.meter.last is not None
    assert engine.meter.last.values[2].tolist() == [0.5, 0.0]


def test_it_reports_nothing_of_the_window_before():
    model = Small()
    fill_gradients(model)
    engine = engine_for(model, AdaptiveGradientClip())
    apply(engine, 0)
    assert engine.statistics["clipped"] > 0
    for parameter in model.parameters():
        parameter.grad = None
    apply(engine, 1)
    assert engine.statistics["clipped"] == 0


def test_its_share_may_follow_training():
    model = nn.Linear(4, 1, bias=False)
    engine = engine_for(model, AdaptiveGradientClip(Linear(0.1, 0.6), exclude_head=False))
    norm = float(model.weight.detach().norm())
    for step, clipping in ((0, 0.1), (5, 0.6)):
        fill_gradients(model, 100.0)
        apply(engine, step)
        assert model.weight.grad is not None
        assert float(model.weight.grad.norm()) == pytest.approx(clipping * norm)


@cases(
    ("arguments", "message"),
    [
        ({"clipping": 0.0}, "`clipping` should be positive"),
        ({"clipping": -0.1}, "`clipping` should be positive"),
        ({"clipping": nan}, "`clipping`"),
        ({"clipping": TopDown(0.1, 0.2)}, "`clipping` should be the same at every depth"),
        ({"eps": 0.0}, r"`eps` should be positive and finite. Found `eps = 0.0`"),
        ({"eps": inf}, "`eps` should be positive and finite"),
        ({"eps": "small"}, "`eps` should be positive and finite"),
        ({"exclude_head": "yes"}, "`exclude_head` should be True or False. Found `exclude_head = 'yes'`"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        AdaptiveGradientClip(**arguments)
