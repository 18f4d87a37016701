"""GradDrop: how much it drops, when it draws again, and which tensors it skips."""

import pickle
from itertools import combinations
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import ConfigurationError, Constant, Cosine, Linear, TopDown
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.masks.grad_drop import Granularity
from tests.cases import cases
from tests.tiny import tiny_bert
from tests.transforms.grad_drop_cases import UNITS, engine_of, every_granularity, kept_in, wide
from tests.transforms.small import Small, apply, fill_gradients, on_one_thread, set_gradients, trained

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


# ---------------------------------------------------------------- how much
@every_granularity
@cases("rate", [0.1, 0.5, 0.9])
def test_the_kept_share_is_near_one_minus_the_rate(granularity: Granularity, rate: float):
    model, steps = wide(), 8
    engine = engine_of(model, rate=rate, granularity=granularity)
    kept = torch.stack([kept_in(engine, model, step) for step in range(steps)]).double().mean()
    sigma = sqrt(rate * (1 - rate) / (UNITS[granularity] * steps))
    assert float(kept) == pytest.approx(1 - rate, abs=4 * sigma)


@cases(("granularity", "size"), [("row", 8), ("tensor", 64), ("component", 64)])
def test_a_unit_is_kept_or_dropped_as_one(granularity: Granularity, size: int):
    model = wide()
    units = kept_in(engine_of(model, rate=0.5, granularity=granularity), model).view(-1, size)
    assert torch.equal(units.all(dim=1), units.any(dim=1))
    assert 0 < int(units[:, 0].sum()) < len(units)


def test_a_row_of_a_vector_is_one_entry_and_a_number_is_one_row():
    model = nn.ParameterDict({"vector": torch.zeros(1000), "number": torch.zeros(())})
    engine = engine_of(model, rate=0.5, granularity="row")
    kept = torch.stack([kept_in(engine, model, step) for step in range(40)])
    assert float(kept[0].double().mean()) == pytest.approx(0.5, abs=0.08)
    assert 0 < int(kept[:, list(dict(model.named_parameters())).index("number")].sum()) < 40


@cases("granularity", ["element", "row"])
def test_a_rate_of_one_drops_all(granularity: Granularity):
    model = wide()
    assert not kept_in(engine_of(model, rate=1, granularity=granularity), model).any()
    assert trained(model) == set()


@every_granularity
def test_a_rate_of_one_drops_what_is_included_whole(granularity: Granularity):
    model = Small()
    engine = engine_of(model, rate=1.0, granularity=granularity, include="blocks.*", exclude="*.bias")
    kept_in(engine, model)
    assert trained(model) == {
        name for name, _ in model.named_parameters() if not name.startswith("blocks.") or name.endswith(".bias")
    }


# ---------------------------------------------------------------- when
@cases(
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
    model = wide()
    engine = engine_of(model, rate=0.5, granularity=granularity, resample_every=every)

    def kept(step: int) -> Tensor:
        return kept_in(engine, model, step, epoch=step // 4)

    for one, other in same:
        assert torch.equal(kept(one), kept(other)), (one, other)
    for one, other in different:
        agreement = float((kept(one) == kept(other)).double().mean())
        assert agreement == pytest.approx(0.5, abs=4 * 0.5 / sqrt(UNITS[granularity])), (one, other)


def test_a_mask_per_epoch_needs_the_epoch():
    model = wide()
    engine = engine_of(model, rate=0.5, resample_every="epoch")
    message = "Parameter `epoch` of the window should be given with `resample_every = 'epoch'`."
    fill_gradients(model)
    with pytest.raises(ConfigurationError, match=message), engine.window(0):
        engine.apply_()


def test_a_mask_without_a_seed_follows_the_run_and_one_with_a_seed_does_not():
    model = wide()
    five, six = (kept_in(engine_of(model, rate=0.5, run=run), model) for run in (5, 6))
    assert not torch.equal(five, six)
    assert torch.equal(kept_in(engine_of(model, rate=0.5, seed=5, run=6), model), five)
    assert torch.equal(kept_in(engine_of(model, rate=0.5, seed=5, run=7), model), five)


def test_twenty_seeds_do_not_share_their_masks():
    model = nn.Linear(200, 200, bias=False)
    masks = [kept_in(engine_of(model, rate=0.5, run=run), model) for run in range(20)]
    agreements = [float((one == other).double().mean()) for one, other in combinations(masks, 2)]
    assert len(agreements) == 190
    assert agreements == pytest.approx([0.5] * 190, abs=5 * 0.5 / 200)


# ---------------------------------------------------------------- rescale
@every_granularity
def test_what_is_kept_is_divided_by_the_kept_share(granularity: Granularity):
    model = wide()
    engine = engine_of(model, rate=0.75, granularity=granularity, rescale=True)
    kept = kept_in(engine, model)
    left = torch.cat([torch.zeros(64) if p.grad is None else p.grad.flatten() for p in model.parameters()])
    assert torch.equal(left, torch.where(kept, 4.0, 0.0))


def test_rescaling_keeps_the_expectation():
    model, steps = nn.Linear(50, 50, bias=False), 400
    engine = engine_of(model, rate=0.6, rescale=True)
    total = torch.zeros(50, 50)
    for step in range(steps):
        kept_in(engine, model, step)
        assert model.weight.grad is not None
        total += model.weight.grad
    sigma = sqrt(0.6 / 0.4)
    assert float(total.mean()) / steps == pytest.approx(1, abs=4 * sigma / sqrt(steps * 2500))
    assert float((total / steps - 1).abs().max()) < 5 * sigma / sqrt(steps)


# ---------------------------------------------------------------- what
def test_only_what_is_included_and_not_excluded_is_masked():
    model = Small()
    engine = engine_of(model, rate=0.9, include=["blocks.*", "head.weight"], exclude=["*.norm.*", "blocks.1.*"])
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
    engine = engine_of(model, rate=1.0, include="blocks.*")
    kept_in(engine, model)
    assert float(engine.statistics["kept"]) == 0


@every_granularity
def test_of_nothing_everything_is_kept(granularity: Granularity):
    model = Small()
    engine = engine_of(model, rate=0.5, include="empty", granularity=granularity, resample_every=None)
    kept_in(engine, model)
    assert float(engine.statistics["kept"]) == 1


def test_a_tied_tensor_is_found_by_any_of_its_names():
    model = Small(tied=True)
    kept_in(engine_of(model, rate=1.0, include="head.weight"), model)
    assert "embeddings.weight" not in trained(model)
    kept_in(engine_of(model, rate=1.0, exclude="head.weight"), model)
    assert trained(model) == {"embeddings.weight"}


# ---------------------------------------------------------------- schedules
class Step(Schedule):
    """A user's schedule: one value in the first half, another in the second."""

    def __call__(self, progress: float, height: float = 1.0) -> float:
        return 0.25 if progress < 0.5 else 0.75

    def bounds(self) -> tuple[float, float]:
        return 0.25, 0.75


@cases(
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
    engine = engine_of(model, rate=rate)
    for step, dropped in expected.items():
        kept = float(kept_in(engine, model, step).double().mean())
        assert kept == pytest.approx(1 - dropped, abs=4 * sqrt(dropped * (1 - dropped)) / 200 + 1e-4), step


@cases(
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
    engine = engine_of(model, rate=TopDown(1.0, 0.0, width=0.5))
    kept_in(engine, model, step)
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


@cases("granularity", ["element", "row"])
@cases("applied", [False, True], ids=["new", "applied"])
def test_a_strategy_that_an_older_version_pickled_still_counts_what_it_kept(granularity: Granularity, applied: bool):
    model = Small()
    engine = engine_of(model, rate=0.5, granularity=granularity)
    if applied:
        fill_gradients(model)
        apply(engine, 0)
    strategy: Any = engine.transform
    expected = float(strategy.statistics["kept"])
    last = strategy._mask._last
    counts = [(shape[:1] if last.by_row else shape).numel() for shape in last.shapes]
    sizes = [shape.numel() // max(units, 1) for units, shape in zip(counts, last.shapes, strict=True)]
    masks = list(zip(counts, sizes, last.keys, last.rates, strict=True))
    older = {"lost": last.lost, "kept": last.kept, "device": last.device, "masks": masks}
    vars(last).clear()
    vars(last).update(older)
    restored = pickle.loads(pickle.dumps(strategy))  # noqa: S301  # its own
    assert float(restored.statistics["kept"]) == expected
    assert (expected < 1) == applied
