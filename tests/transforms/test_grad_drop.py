"""GradDrop: how much it drops, when it draws anew, and what it leaves alone."""

from itertools import combinations
from math import nan, sqrt
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import ConfigurationError, Constant, Cosine, GradDrop, GradientEngine, Linear, TopDown
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.grad_drop import Granularity
from tests.tiny import tiny_bert, tiny_gpt2
from tests.transforms.golden import (
    Small,
    apply,
    bits,
    engine_for,
    fill_gradients,
    on_one_thread,
    set_gradients,
    trained,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

UNITS: dict[Granularity, int] = {"element": 64 * 150, "row": 8 * 150, "tensor": 150, "component": 150}
every_granularity = pytest.mark.parametrize("granularity", UNITS)


def _wide() -> nn.Module:
    """Many small modules, so that there are many units of every granularity, all of one size."""
    return nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(150))


def _kept(engine: GradientEngine, model: nn.Module, step: int = 0, epoch: int | None = None) -> Tensor:
    """Return which entries a window keeps, of all parameters in a row."""
    fill_gradients(model)
    with engine.window(step, epoch=epoch):
        engine.apply_()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() != 0 for p in model.parameters()])


def _engine(model: nn.Module, *, run: int = 1, **arguments: Any) -> GradientEngine:
    return GradientEngine(model, GradDrop(**arguments), total_steps=101, seed=run)


# ---------------------------------------------------------------- how much
@every_granularity
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_kept_share_is_near_one_minus_the_rate(granularity: Granularity, rate: float):
    model, steps = _wide(), 8
    engine = _engine(model, rate=rate, granularity=granularity)
    kept = torch.stack([_kept(engine, model, step) for step in range(steps)]).double().mean()
    sigma = sqrt(rate * (1 - rate) / (UNITS[granularity] * steps))
    assert float(kept) == pytest.approx(1 - rate, abs=4 * sigma)


@pytest.mark.parametrize(("granularity", "size"), [("row", 8), ("tensor", 64), ("component", 64)])
def test_a_unit_is_kept_or_dropped_as_one(granularity: Granularity, size: int):
    model = _wide()
    units = _kept(_engine(model, rate=0.5, granularity=granularity), model).view(-1, size)
    assert torch.equal(units.all(dim=1), units.any(dim=1))
    assert 0 < int(units[:, 0].sum()) < len(units)


def test_a_row_of_a_vector_is_one_entry_and_a_number_is_one_row():
    model = nn.ParameterDict({"vector": torch.zeros(1000), "number": torch.zeros(())})
    engine = _engine(model, rate=0.5, granularity="row")
    kept = torch.stack([_kept(engine, model, step) for step in range(40)])
    assert float(kept[0].double().mean()) == pytest.approx(0.5, abs=0.08)
    assert 0 < int(kept[:, list(dict(model.named_parameters())).index("number")].sum()) < 40


@pytest.mark.parametrize("granularity", ["element", "row"])
def test_a_rate_of_one_drops_all(granularity: Granularity):
    model = _wide()
    assert not _kept(_engine(model, rate=1, granularity=granularity), model).any()
    assert trained(model) == set()


@every_granularity
def test_a_rate_of_one_drops_what_is_included_whole(granularity: Granularity):
    model = Small()
    engine = _engine(model, rate=1.0, granularity=granularity, include="blocks.*", exclude="*.bias")
    _kept(engine, model)
    assert trained(model) == {
        name for name, _ in model.named_parameters() if not name.startswith("blocks.") or name.endswith(".bias")
    }


# ---------------------------------------------------------------- when
@pytest.mark.parametrize(
    ("every", "same", "different"),
    [
        (1, [(0, 0)], [(0, 1), (1, 2), (0, 7)]),
        (3, [(0, 2), (3, 5), (6, 8)], [(2, 3), (5, 6), (0, 3)]),
        ("epoch", [(0, 3), (4, 7), (8, 11)], [(3, 4), (0, 8)]),
        (None, [(0, 1), (0, 50), (7, 100)], []),
    ],
    ids=str,
)
@every_granularity
def test_masks_are_equal_within_a_draw_and_differ_across(
    every: Any, same: list[Any], different: list[Any], granularity: Granularity
):
    model = _wide()
    engine = _engine(model, rate=0.5, granularity=granularity, resample_every=every)

    def kept(step: int) -> Tensor:
        return _kept(engine, model, step, epoch=step // 4)

    for one, other in same:
        assert torch.equal(kept(one), kept(other)), (one, other)
    for one, other in different:
        agreement = float((kept(one) == kept(other)).double().mean())
        assert agreement == pytest.approx(0.5, abs=4 * 0.5 / sqrt(UNITS[granularity])), (one, other)


def test_a_mask_per_epoch_needs_the_epoch():
    model = _wide()
    engine = _engine(model, rate=0.5, resample_every="epoch")
    message = "Parameter `epoch` of the window should be given with `resample_every = 'epoch'`."
    fill_gradients(model)
    with pytest.raises(ConfigurationError, match=message), engine.window(0):
        engine.apply_()


def test_a_mask_without_a_seed_follows_the_run_and_one_with_a_seed_does_not():
    model = _wide()
    five, six = (_kept(_engine(model, rate=0.5, run=run), model) for run in (5, 6))
    assert not torch.equal(five, six)
    assert torch.equal(_kept(_engine(model, rate=0.5, seed=5, run=6), model), five)
    assert torch.equal(_kept(_engine(model, rate=0.5, seed=5, run=7), model), five)


def test_twenty_seeds_do_not_share_their_masks():
    model = nn.Linear(200, 200, bias=False)
    masks = [_kept(_engine(model, rate=0.5, run=run), model) for run in range(20)]
    agreements = [float((one == other).double().mean()) for one, other in combinations(masks, 2)]
    assert len(agreements) == 190
    assert agreements == pytest.approx([0.5] * 190, abs=5 * 0.5 / 200)


# ---------------------------------------------------------------- rescale
@every_granularity
def test_what_is_kept_is_divided_by_the_kept_share(granularity: Granularity):
    model = _wide()
    engine = _engine(model, rate=0.75, granularity=granularity, rescale=True)
    kept = _kept(engine, model)
    left = torch.cat([torch.zeros(64) if p.grad is None else p.grad.flatten() for p in model.parameters()])
    assert torch.equal(left, torch.where(kept, 4.0, 0.0))


def test_rescaling_keeps_the_expectation():
    model, steps = nn.Linear(50, 50, bias=False), 400
    engine = _engine(model, rate=0.6, rescale=True)
    total = torch.zeros(50, 50)
    for step in range(steps):
        _kept(engine, model, step)
        assert model.weight.grad is not None
        total += model.weight.grad
    sigma = sqrt(0.6 / 0.4)
    assert float(total.mean()) / steps == pytest.approx(1, abs=4 * sigma / sqrt(steps * 2500))
    assert float((total / steps - 1).abs().max()) < 5 * sigma / sqrt(steps)


# ---------------------------------------------------------------- what
def test_only_what_is_included_and_not_excluded_is_masked():
    model = Small()
    engine = _engine(model, rate=0.9, include=["blocks.*", "head.weight"], exclude=["*.norm.*", "blocks.1.*"])
    set_gradients(model, 0)
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    apply(engine, 0)
    changed = {
        name for name, p in model.named_parameters() if p.grad is not None and not torch.equal(p.grad, before[name])
    }
    inside = {name for name, _ in model.blocks[0].named_parameters() if not name.startswith("norm")}
    assert changed == {f"blocks.0.{name}" for name in inside} | {"head.weight"}


def test_the_kept_share_counts_what_may_be_dropped_only():
    model = Small()
    engine = _engine(model, rate=1.0, include="blocks.*")
    _kept(engine, model)
    assert float(engine.statistics["kept"]) == 0


def test_a_tied_tensor_is_found_by_any_of_its_names():
    model = Small(tied=True)
    _kept(_engine(model, rate=1.0, include="head.weight"), model)
    assert "embeddings.weight" not in trained(model)
    _kept(_engine(model, rate=1.0, exclude="head.weight"), model)
    assert trained(model) == {"embeddings.weight"}


# ---------------------------------------------------------------- schedules
class Step(Schedule):
    """A schedule of a user's own: one value in the first half, another in the second."""

    def __call__(self, progress: float, height: float = 1.0) -> float:
        return 0.25 if progress < 0.5 else 0.75

    def bounds(self) -> tuple[float, float]:
        return 0.25, 0.75


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (Constant(0.3), {0: 0.3, 50: 0.3, 100: 0.3}),
        (Linear(0.8, 0.2), {0: 0.8, 25: 0.65, 50: 0.5, 100: 0.2, 500: 0.2}),
        (Linear(0.0, 1.0, begin=0.5), {0: 0.0, 50: 0.0, 75: 0.5, 100: 1.0}),
        (Cosine(1.0, 0.0), {0: 1.0, 25: 0.8536, 50: 0.5, 75: 0.1464, 100: 0.0}),
        (Step(), {0: 0.25, 49: 0.25, 50: 0.75, 100: 0.75}),
    ],
    ids=["constant", "linear", "linear, late", "cosine", "a user's own"],
)
def test_the_rate_follows_training(rate: Schedule, expected: dict[int, float]):
    model = nn.Linear(200, 200, bias=False)
    engine = _engine(model, rate=rate)
    for step, dropped in expected.items():
        kept = float(_kept(engine, model, step).double().mean())
        assert kept == pytest.approx(1 - dropped, abs=4 * sqrt(dropped * (1 - dropped)) / 200 + 1e-4), step


@pytest.mark.parametrize(
    ("step", "rates"),
    [
        (0, [1.0, 1.0, 1.0, 0.5, 0.0]),
        (25, [1.0, 1.0, 0.5, 0.0, 0.0]),
        (75, [0.5, 0.0, 0.0, 0.0, 0.0]),
        (100, [0.0, 0.0, 0.0, 0.0, 0.0]),
    ],
    ids=["first step", "a quarter", "three quarters", "last step"],
)
def test_the_rate_follows_depth(step: int, rates: list[float]):
    model = tiny_bert()  # embeddings, three blocks, head: heights 0, 1/4, 2/4, 3/4, 1
    engine = _engine(model, rate=TopDown(1.0, 0.0, width=0.5))
    _kept(engine, model, step)
    blocks = [(f"bert.encoder.layer.{i}",) for i in range(3)]
    prefixes = [("bert.embeddings",), *blocks, ("bert.pooler", "classifier")]
    for prefix, rate in zip(prefixes, rates, strict=True):
        inside = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        assert inside
        if rate == 1:
            assert all(p.grad is None for p in inside), prefix
            continue
        entries = torch.cat([p.grad.flatten() for p in inside if p.grad is not None])
        assert len(entries) == sum(p.numel() for p in inside), prefix
        assert float((entries == 0).double().mean()) == pytest.approx(rate, abs=4 * 0.5 / sqrt(len(entries)) * rate)


# ---------------------------------------------------------------- whole tensors and slices of them
def test_a_fused_slice_is_zeroed_and_the_tensor_is_dropped_whole_only_with_all_its_slices():
    model = tiny_gpt2()
    engine = _engine(model, rate=0.5, granularity="component")
    seen: set[object] = set()
    for step in range(12):
        _kept(engine, model, step)
        for name, parameter in model.named_parameters():
            if "attn.c_attn" not in name:
                assert parameter.grad is None or bool((parameter.grad == 1).all()), name
                continue
            if parameter.grad is None:
                seen.add("whole")
                continue
            parts = parameter.grad.chunk(3, dim=-1)
            assert all(bool((part == part.flatten()[0]).all()) for part in parts), name
            pattern = tuple(int(part.flatten()[0]) for part in parts)
            assert any(pattern), f"{name} was dropped in all its parts, but not whole"
            seen.add(pattern)
    assert seen == {"whole", *[(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1) if a or b or c]}


def test_query_key_and_value_of_a_fused_projection_are_dropped_independently_but_weight_by_weight():
    model = tiny_gpt2()
    engine = _engine(model, rate=0.5, granularity="component", components="tensor")
    for step in range(5):
        _kept(engine, model, step)
        assert all(p.grad is None or bool((p.grad == 1).all()) for p in model.parameters())
        assert 0 < len(trained(model)) < len(list(model.parameters()))


@pytest.mark.parametrize("granularity", ["tensor", "component"])
def test_a_draw_that_would_train_nothing_is_drawn_again(granularity: Granularity):
    model = nn.Linear(2, 2)
    engine = _engine(model, rate=0.95, granularity=granularity)
    kept = []
    for step in range(100):
        _kept(engine, model, step)
        kept.append(frozenset(trained(model)))
    assert frozenset() not in kept
    assert {frozenset({"weight"}), frozenset({"bias"})} <= set(kept)


def test_a_draw_that_would_train_only_what_is_frozen_is_drawn_again():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    engine = _engine(model, rate=0.9, granularity="tensor")
    for step in range(20):
        model.weight.grad = torch.ones(2, 2)
        apply(engine, step)
        assert model.weight.grad is not None


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_a_rate_of_one_drops_every_unit(granularity: Granularity):
    model = nn.Linear(2, 2)
    engine = _engine(model, rate=1.0, granularity=granularity)
    fill_gradients(model)
    with engine.window(0):
        engine.apply_()
    assert model.weight.grad is None
    assert model.bias.grad is None
    assert float(engine.statistics["kept"]) == 0


def test_a_dropped_entry_is_multiplied_so_that_an_overflow_stays_visible():
    model = nn.Linear(100, 10, bias=False)
    engine = _engine(model, rate=0.5)
    kept = _kept(engine, model)
    fill_gradients(model, float("inf"))
    apply(engine, 0)
    assert model.weight.grad is not None
    left = model.weight.grad.flatten()
    assert bool(left[kept].isposinf().all())
    assert bool(left[~kept].isnan().all())


def test_a_dropped_entry_does_not_depend_on_how_the_gradient_lies_in_memory():
    model = Small()
    engine = engine_for(model, GradDrop(0.5))
    found = []
    for transposed in (False, True):
        set_gradients(model, 0)
        weight = model.get_parameter("blocks.0.output.weight")
        assert weight.grad is not None
        if transposed:
            weight.grad = weight.grad.t().contiguous().t()
            assert not weight.grad.is_contiguous()
        apply(engine, 0)
        found.append(bits(weight.grad))
    assert torch.equal(*found)


# ---------------------------------------------------------------- refusals
def _refusals() -> dict[str, tuple[dict[str, Any], str]]:
    rates = "Parameter `rate` should be in [0, 1]. Found `rate = "
    number = "Parameter `rate` should be a number or a schedule. Found "
    every = "Parameter `resample_every` should be a positive number of steps, 'epoch' or None. Found `resample_every = "
    seed = "Parameter `seed` should be a non-negative integer, or None for the seed of the run. Found `seed = "
    units = "Parameter `granularity` should be one of 'element', 'row', 'tensor', 'component'. Found `granularity = "
    kinds = (
        "Parameter `components` should be one of 'projection', 'tensor', 'module', 'block', or map patterns to names."
    )
    rescale = "Parameter `rate` should stay below 1 with `rescale`: nothing is left to rescale. Found `rate = "
    component: dict[str, Any] = {"rate": 0.5, "granularity": "component"}
    return {
        "a negative rate": ({"rate": -0.1}, f"{rates}-0.1`."),
        "a rate above 1": ({"rate": 1.0001}, f"{rates}1.0001`."),
        "an undefined rate": ({"rate": nan}, f"{rates}nan`."),
        "an infinite rate": ({"rate": float("inf")}, f"{rates}inf`."),
        "a rate in words": ({"rate": "half"}, f"{number}`'half'`."),
        "a rate of True": ({"rate": True}, f"{number}`True`."),
        "no rate": ({"rate": None}, f"{number}`None`."),
        "a schedule that leaves [0, 1]": ({"rate": Linear(0.5, 1.5)}, f"{rates}Linear(0.5, 1.5, begin=0, finish=1)`."),
        "an undefined constant": ({"rate": Constant(nan)}, f"{rates}nan`."),
        "no steps": ({"rate": 0.5, "resample_every": 0}, f"{every}0`."),
        "negative steps": ({"rate": 0.5, "resample_every": -1}, f"{every}-1`."),
        "steps of True": ({"rate": 0.5, "resample_every": True}, f"{every}True`."),
        "broken steps": ({"rate": 0.5, "resample_every": 1.5}, f"{every}1.5`."),
        "an unknown word": ({"rate": 0.5, "resample_every": "epochs"}, f"{every}'epochs'`."),
        "an unknown granularity": (
            {"rate": 0.5, "granularity": "elements"},
            f"{units}'elements'`. Near matches: `element`.",
        ),
        "no granularity": ({"rate": 0.5, "granularity": None}, f"{units}None`."),
        "components without the granularity": (
            {"rate": 0.5, "components": "block"},
            "Parameter `components` should be given with `granularity = 'component'` only. "
            "Found `granularity = 'element'`.",
        ),
        "unknown components": (
            {**component, "components": "blocks"},
            f"{kinds} Found `components = 'blocks'`. Near matches: `block`.",
        ),
        "empty components": (
            {**component, "components": {}},
            "Parameter `components` should hold a pattern. Found `components = {}`.",
        ),
        "a rate of 1, rescaled": ({"rate": 1, "rescale": True}, f"{rescale}1`."),
        "a rate that reaches 1, rescaled": (
            {"rate": TopDown(), "rescale": True},
            f"{rescale}TopDown(1, 0, width=0.5)`.",
        ),
        "a negative seed": ({"rate": 0.5, "seed": -1}, f"{seed}-1`."),
        "a seed of True": ({"rate": 0.5, "seed": True}, f"{seed}True`."),
        "a seed in words": ({"rate": 0.5, "seed": "7"}, f"{seed}'7'`."),
        "a broken seed": ({"rate": 0.5, "seed": 7.0}, f"{seed}7.0`."),
    }


@pytest.mark.parametrize(("arguments", "message"), _refusals().values(), ids=_refusals())
def test_an_argument_outside_its_range_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError) as refused:
        GradDrop(**arguments)
    assert str(refused.value) == message


UNBINDABLE = {
    "include matches nothing": (
        {"include": "block.*"},
        "Parameter `include` should hold patterns that match a parameter name. Found `block.*`, which matches none of ",
    ),
    "exclude matches nothing": (
        {"exclude": ["*.bias", "heads.weight"]},
        "Parameter `exclude` should hold patterns that match a parameter name. Found `heads.weight`",
    ),
    "near matches are listed": ({"include": "head.weigth"}, "Near matches: `head.weight`"),
    "nothing is left": (
        {"include": "head.*", "exclude": "head.*"},
        "Parameters `include` and `exclude` should leave something. Found `include = head.*`, `exclude = head.*`",
    ),
    "components match nothing": (
        {"granularity": "component", "components": {"encoder.*": "encoder", "*": "rest"}},
        "Parameter `components` should hold patterns that match a parameter name. Found `encoder.*`",
    ),
    "components leave a parameter out": (
        {"granularity": "component", "components": {"blocks.*": "blocks"}},
        "Parameter `components` should match every parameter; a last pattern `*` takes the rest.",
    ),
    "a schedule without an end": (
        {"rate": Linear(0.5, 0.0)},
        "Parameter `total_steps` should be given for `GradDrop` with a schedule over training "
        "(Linear(0.5, 0, begin=0, finish=1)). Found `total_steps = None`.",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), UNBINDABLE.values(), ids=UNBINDABLE)
def test_what_does_not_fit_the_model_is_refused(arguments: dict[str, Any], message: str):
    transform = GradDrop(**{"rate": 0.5, **arguments})
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(Small(), transform)
    assert message in str(refused.value)


def test_a_rate_that_follows_depth_needs_layers():
    with pytest.raises(ConfigurationError, match="Found no list of blocks in `Linear`"):
        GradientEngine(nn.Linear(2, 2), GradDrop(TopDown()), total_steps=10)
