"""FSDP2 on 2 and 4 processes: the masks of one process bit for bit, and its norms and weights to rounding."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sparsegrad import GradientTransform
from tests.engine.helpers import backward, loss_on, tokens_at
from tests.lightning.tasks import SEED, STRATEGIES, Regression, loader, plain_loop, windows
from tests.transforms.golden import GOLDEN
from tests.transforms.small import STEPS_PER_EPOCH, Small, Snapshot, bits, engine_for

from . import models
from .processes import CASES, RUNS, WIDE, transformed

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.distributed

Results = dict[str, list[Any]]


@pytest.fixture(scope="module", params=[2, 4], ids=["on_two", "on_four"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run all cases in several processes, started once; return what each rank wrote down."""
    folder, count = tmp_path_factory.mktemp("ranks"), request.param
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [*launcher, "-m", "tests.sharding.processes", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return {name: [torch.load(folder / f"{name} {rank}.pt") for rank in range(count)] for name in CASES}


def flat(value: Any) -> list[Any]:
    """Return the leaves of what a rank wrote down, tensors as lists of bits."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in (key, *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in flat(each)]
    return [bits(value).tolist()] if isinstance(value, Tensor) else [value]


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_come_to_the_same(results: Results, case: str) -> None:
    first, *others = results[case]
    assert first
    assert all(flat(other) == flat(first) for other in others)


def assert_alike(found: Any, expected: Any, *, to_the_bit: bool) -> None:
    """Compare gradients and statistics; where nothing adds up over ranks, bit for bit."""
    (gradients, statistics), (wanted, told) = found, expected
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert_gradients_alike(ours, theirs, to_the_bit=to_the_bit)
    assert statistics == pytest.approx(told, rel=1e-5)


def assert_gradients_alike(found: Snapshot, expected: Snapshot, *, to_the_bit: bool) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
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


@pytest.mark.parametrize("index", range(len(GOLDEN)), ids=[str(row) for row in GOLDEN])
def test_gradients_are_those_of_one_process(results: Results, index: int) -> None:
    transform = GOLDEN[index].transform
    assert_alike(results["golden"][0][index], transformed(Small(), transform), to_the_bit=not sums_up(transform))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # of the compiler's own
@pytest.mark.parametrize("name", WIDE)
def test_large_gradients_are_those_of_one_process(results: Results, name: str) -> None:
    expected = transformed(models.Wide(), WIDE[name])
    assert any(gradient is not None and gradient.any() for gradient in expected[0][0].values())
    assert_alike(results["wide"][0][name], expected, to_the_bit=not sums_up(WIDE[name]))


@pytest.mark.parametrize("index", range(len(GOLDEN)), ids=[str(row) for row in GOLDEN])
def test_training_is_that_of_one_process(results: Results, index: int) -> None:
    model = Small()
    engine = engine_for(model, GOLDEN[index].transform)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.ndim], lr=0.05, weight_decay=0.1)
    for step in range(6):
        optimizer.zero_grad()
        with engine.window(step, epoch=step // STEPS_PER_EPOCH):
            backward(loss_on(model, tokens_at(step, 8)))
            model.temperature.grad = None
            engine.apply_()
        optimizer.step()
    torch.testing.assert_close(results["trained"][0][index], models.gathered_weights(model), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", RUNS)
def test_a_trainer_trains_as_one_process_does(results: Results, name: str) -> None:
    strategy, _, accumulate = RUNS[name]
    batches = list(loader(size=4))
    expected = plain_loop(
        Regression(), STRATEGIES[strategy], windows(accumulate, accumulate, batches=batches), seed=SEED
    )
    weights, statistics = results["under_trainer"][0][name]
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
    assert statistics.get("kept", 0.5) < 1


def test_a_resumed_fit_is_one_that_never_stopped(results: Results) -> None:
    whole, again = results["resumed"][0]
    assert flat(whole) == flat(again)


def test_half_precision_trains(results: Results) -> None:
    trained, start = results["half_precision"][0], Regression()
    for name, weight in start.named_parameters():
        assert trained[name].dtype == torch.bfloat16
        assert not torch.equal(trained[name].float(), weight)
        torch.testing.assert_close(trained[name].float(), weight.detach(), rtol=0, atol=0.25)


def test_what_one_rank_alone_finds_undefined_is_left_out_by_all(results: Results) -> None:
    told = results["nonfinite"][0]
    everything = len(list(Small().parameters()))
    assert told["skip"] == ([everything, 0, everything], 1)
    assert told["raise"] == ([everything] * 3, 1)
    assert told["error"] == (
        "Gradients should be finite with `nonfinite = 'raise'`. Found an infinite or undefined one, of "
        "`blocks.1.output.weight`, at step 1."
    )


def test_what_is_not_sharded_by_rows_is_refused(results: Results) -> None:
    refused = results["refused"][0]
    for kind in ("columns", "tensor parallel"):
        assert "sharded by rows over one dimension of the device mesh, as `fully_shard` does" in refused[kind]
        assert "Found placements (Shard(dim=1),) of a tensor of shape (8, 8)" in refused[kind]
        assert refused[kind].endswith("weight`.")
    assert refused["FSDP1"] == (
        "Parameter `model` should be sharded by FSDP2, `torch.distributed.fsdp.fully_shard`, in place of FSDP1. "
        "Found a `FullyShardedDataParallel`."
    )
