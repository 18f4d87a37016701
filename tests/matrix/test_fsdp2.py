"""FSDP2: the masks of one process bit for bit, and its norms and weights to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

from lightning_sparsegrad import (
    AdaptiveGradientClip,
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
    GradientEngine,
    GradientTransform,
    Identity,
)
from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.engine.gradient_meter import GradientMeter
from tests.engine.helpers import backward, loss_on, tokens_at
from tests.transforms.golden import Golden
from tests.transforms.small import STEPS_PER_EPOCH, WINDOWS, Small, Snapshot, apply, bits, engine_for

from . import sharded
from .ranks import Results, case
from .task import ROWS, knows_when

TRAINED = 4  # steps
SHARDED = [row for row in ROWS if row.on_shards]
NOT_FOR_SHARDS = [row for row in ROWS if not row.on_shards]

pytestmark = pytest.mark.distributed


def rows_on(count: int) -> dict[int, Golden]:
    """Return the rows that some processes train and measure, by their index; all are applied once in any case."""
    return {index: row for index, row in enumerate(SHARDED) if count > 2 or knows_when(row)}


# ---------------------------------------------------------------- what each rank does
def transformed(model: nn.Module, transform: GradientTransform) -> tuple[list[Any], dict[str, float]]:
    """Return the gradients that a transform leaves of those of the formula, and its statistics."""
    engine, done = engine_for(model, transform), []
    for step in WINDOWS:
        sharded.set_gradients(model, step)
        apply(engine, step)
        done.append(sharded.gathered(model))
    return done, sharded.numbers(engine.statistics)


@case
def golden(mesh: DeviceMesh, _: Path) -> Any:
    return [transformed(sharded.shard(Small(), mesh), row.transform) for row in SHARDED]


@case
def not_for_shards(mesh: DeviceMesh, _: Path) -> Any:
    """Return with which error an engine refuses each strategy that does not take shards."""
    errors = []
    for row in NOT_FOR_SHARDS:
        try:
            engine_for(sharded.shard(Small(), mesh), row.transform)
        except ConfigurationError as error:
            errors.append(str(error))
    return len(errors), errors


@case
def wide(mesh: DeviceMesh, _: Path) -> Any:
    names = wide_on(mesh.size())
    return {name: transformed(sharded.shard(sharded.Wide(), mesh), WIDE[name]) for name in names}


FUSED = {"heads.*": sharded.HEADS, "columns.*": sharded.COLUMNS}
WIDE: dict[str, GradientTransform] = {
    "entries": GradDrop(0.4),
    "rescaled": GradDrop(0.4, rescale=True),
    "fused": GradDrop(0.4, fused=True),
    "rows": GradDrop(0.4, granularity="row"),
    "heads": ComponentNormClip(0.5, fused=FUSED),
    "heads by their largest entry": ComponentNormClip(0.5, fused=FUSED, norm_type=float("inf")),
    "a component each": ComponentNormClip(2.0, components="module"),
    "units": AdaptiveGradientClip(7.0, exclude_head=False),
}


def wide_on(count: int) -> list[str]:
    """Return which of them some processes run; two leave to four what has to be compiled."""
    return [name for name in WIDE if count > 2 or name != "fused"]


@case
def trained(mesh: DeviceMesh, _: Path) -> Any:
    """Train with real backward passes, two micro-batches to a window, each rank on its share of the sequences."""
    rank, ranks, done = mesh.get_rank(), mesh.size(), {}
    for index, row in rows_on(ranks).items():
        model = sharded.shard(Small(), mesh, to_train=True)
        engine = engine_for(model, row.transform)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.ndim], lr=0.05, weight_decay=0.1)
        engine.attach(optimizer)
        for step in range(TRAINED):
            optimizer.zero_grad()
            with engine.window(step, epoch=step // STEPS_PER_EPOCH):
                for half in tokens_at(step, 8).chunk(2):
                    torch.rand(1 + rank)
                    backward(loss_on(model, half.chunk(ranks)[rank]) / 2)
                model.temperature.grad = None  # not FSDP2's, so it reduces nothing there
                engine.apply_()
            optimizer.step()
        done[index] = sharded.gathered_weights(model), engine.transform.state_dict()
    return done


def measured(model: nn.Module, transform: GradientTransform) -> list[Any]:
    """Return what a meter sees in each window."""
    engine, seen = engine_for(model, transform), []
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
    for step in WINDOWS:
        sharded.set_gradients(model, step)
        apply(engine, step)
        if meter.last is None:
            assert not engine.statistics, "a meter measures what is applied"
            continue
        seen.append(meter.last.values)
    return seen


@case
def metered(mesh: DeviceMesh, _: Path) -> Any:
    rows = rows_on(mesh.size()).items()
    return {index: measured(sharded.shard(Small(), mesh), row.transform) for index, row in rows}


@case
def nonfinite(mesh: DeviceMesh, _: Path) -> Any:
    """Let one entry, on one rank alone, be undefined in the second of three windows."""
    report: dict[str, Any] = {}
    policies: tuple[NonFinite, ...] = ("skip", "raise")
    for policy in policies:
        model = sharded.shard(Small(), mesh)
        engine = GradientEngine(model, Chain([GradDrop(0.5), ComponentNormClip(0.5)]), nonfinite=policy)
        left = []
        for step in range(3):
            sharded.set_gradients(model, step)
            if step == 1:
                gradient = model.get_parameter("blocks.1.output.weight").grad
                assert isinstance(gradient, DTensor)
                gradient.to_local().view(-1)[:1] = float("nan") if mesh.get_rank() == mesh.size() - 1 else 1.0
            try:
                apply(engine, step)
            except FloatingPointError as error:
                report["error"] = str(error)
            left.append(sum(parameter.grad is not None for parameter in model.parameters()))
        report[policy] = left, sharded.numbers(engine.statistics)["nonfinite"]
    return report


@case
def lopsided(mesh: DeviceMesh, _: Path) -> Any:
    """Let one rank alone have a gradient of what is not sharded; then let it be undefined there alone."""
    model = sharded.shard(Small(), mesh)
    engine = GradientEngine(model, ComponentNormClip(0.5), nonfinite="skip")
    left = []
    for step in range(2):
        sharded.set_gradients(model, step)
        temperature = model.get_parameter("temperature")
        if step == 0 and mesh.get_rank() > 0:
            temperature.grad = None
        if step == 1 and mesh.get_rank() == 0:
            temperature.grad = torch.tensor(float("nan"))
        apply(engine, step)
        temperature.grad = None
        left.append(sharded.gathered(model))
    return left


@case
def refused(mesh: DeviceMesh, _: Path) -> Any:
    columns = nn.Linear(8, 8)
    fully_shard(columns, mesh=mesh, shard_placement_fn=lambda parameter: Shard(parameter.ndim - 1))
    parallel = parallelize_module(nn.Sequential(nn.Linear(8, 8)), mesh, {"0": RowwiseParallel()})
    flat = FullyShardedDataParallel(nn.Linear(8, 8), device_id=torch.device("cpu"))
    uneven, rows = nn.Linear(1, 1, bias=False), 2 - (mesh.get_rank() == 0)
    uneven.weight = nn.Parameter(
        DTensor.from_local(
            torch.zeros(rows, 1), mesh, [Shard(0)], shape=torch.Size([2 * mesh.size() - 1, 1]), stride=(1, 1)
        )
    )
    return {
        name: sharded.refusal(model, Identity())
        for name, model in {"columns": columns, "tensor parallel": parallel, "FSDP1": flat, "uneven": uneven}.items()
    } | {"partial": partial_gradient(mesh)}


def partial_gradient(mesh: DeviceMesh) -> str:
    """Return what an engine says about a gradient that is still to be summed."""
    model = nn.Linear(4, 4, bias=False)
    model.weight = nn.Parameter(DTensor.from_local(model.weight.detach(), mesh, [Replicate()]))
    model.weight.grad = DTensor.from_local(torch.ones(4, 4), mesh, [Partial()])
    engine = GradientEngine(model, Identity())
    try:
        apply(engine, 0)
    except ConfigurationError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- what is expected of it
def assert_alike(actual: Any, expected: Any, *, to_the_bit: bool) -> None:
    """Compare gradients and statistics; where nothing adds up over ranks, bit for bit."""
    (gradients, statistics), (wanted, wanted_statistics) = actual, expected
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert_gradients_alike(ours, theirs, to_the_bit=to_the_bit)
    assert statistics == pytest.approx(wanted_statistics, rel=1e-5)


def assert_gradients_alike(actual: Snapshot, expected: Snapshot, *, to_the_bit: bool) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        other = expected[name]
        if gradient is None or other is None:
            assert gradient is other, name
            continue
        assert torch.equal(gradient == 0, other == 0), name
        if to_the_bit:
            assert torch.equal(bits(gradient), bits(other)), name
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-8, msg=name)


def sums_up(transform: GradientTransform) -> bool:
    return "norm" in transform.bounds


@pytest.mark.parametrize("row", SHARDED, ids=str)
def test_a_strategy_does_what_it_does_in_one_process(results: Results, row: Golden, subtests: pytest.Subtests) -> None:
    index = SHARDED.index(row)
    with subtests.test("gradients and statistics"):
        expected = transformed(Small(), row.transform)
        assert_alike(results["golden"][0][index], expected, to_the_bit=not sums_up(row.transform))
    if index in rows_on(results.count):
        with subtests.test("weights"):
            trained, _ = results["trained"][0][index]
            torch.testing.assert_close(trained, trained_alone(row), rtol=1e-3, atol=2e-4)
        with subtests.test("what a meter sees"):
            assert_seen_alike(results["metered"][0][index], measured(Small(), row.transform))


def trained_alone(row: Golden) -> dict[str, Tensor]:
    """Train as `trained` does, in one process."""
    model = Small()
    engine = engine_for(model, row.transform)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.ndim], lr=0.05, weight_decay=0.1)
    engine.attach(optimizer)
    for step in range(TRAINED):
        optimizer.zero_grad()
        with engine.window(step, epoch=step // STEPS_PER_EPOCH):
            backward(loss_on(model, tokens_at(step, 8)))
            model.temperature.grad = None
            engine.apply_()
        optimizer.step()
    return sharded.gathered_weights(model)


def assert_seen_alike(actual: list[Tensor], expected: list[Tensor]) -> None:
    for seen, alone in zip(actual, expected, strict=True):
        skipped = seen[0].isnan() | alone[0].isnan()  # not computed by one of the two, for it is dropped whole
        assert not seen[1:4, skipped].any()  # norm after, clipped, kept
        torch.testing.assert_close(seen[:, ~skipped], alone[:, ~skipped], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # of the compiler's own
def test_large_gradients_are_those_of_one_process(results: Results, subtests: pytest.Subtests) -> None:
    for name in wide_on(results.count):
        with subtests.test(name):
            expected = transformed(sharded.Wide(), WIDE[name])
            assert any(gradient is not None and gradient.any() for gradient in expected[0][0].values())
            assert_alike(results["wide"][0][name], expected, to_the_bit=not sums_up(WIDE[name]))


def test_what_one_rank_alone_finds_undefined_is_left_out_by_all(results: Results) -> None:
    report = results["nonfinite"][0]
    everything = len(list(Small().parameters()))
    assert report["skip"] == ([everything, 0, everything], 1)
    assert report["raise"] == ([everything] * 3, 1)
    assert report["error"] == (
        "Gradients should be finite with `nonfinite = 'raise'`. Found an infinite or undefined one, of "
        "`blocks.1.output.weight`, at step 1."
    )


def test_what_one_rank_alone_has_beside_shards_keeps_the_ranks_together(results: Results) -> None:
    clipped, left_out = results["lopsided"][0]
    expected, _ = transformed(Small(), ComponentNormClip(0.5))
    sharded_alone = {name: gradient for name, gradient in clipped.items() if name != "temperature"}
    assert_gradients_alike(sharded_alone, {name: expected[0][name] for name in sharded_alone}, to_the_bit=False)
    assert not any(gradient is not None for gradient in left_out.values())


def test_what_is_not_sharded_by_rows_is_refused(results: Results) -> None:
    refused = results["refused"][0]
    for kind in ("columns", "tensor parallel"):
        assert "sharded by rows over one dimension of the device mesh, as `fully_shard` does" in refused[kind]
        assert "Found placements (Shard(dim=1),) of a tensor of shape (8, 8)" in refused[kind]
        assert refused[kind].endswith("weight`.")
    assert "Found 1 of" in refused["uneven"]
    assert "Found placements (Partial(sum),) of a tensor of shape (4, 4)" in refused["partial"]
    assert refused["partial"].endswith("It is `weight`.")
    assert refused["FSDP1"] == (
        "Parameter `model` should be sharded by FSDP2, `torch.distributed.fsdp.fully_shard`, in place of FSDP1. "
        "Found a `FullyShardedDataParallel`."
    )


def test_a_strategy_that_does_not_take_shards_is_refused_by_name(results: Results) -> None:
    _, errors = results["not_for_shards"][0]
    for row, error in zip(NOT_FOR_SHARDS, errors, strict=True):
        assert str(row) in error
