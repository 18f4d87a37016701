"""FSDP2 on 2 and 4 processes: the masks of one process bit for bit, and its norms and weights to rounding."""

import pytest
import torch

from lightning_sparsegrad import ComponentNormClip
from tests.lightning.tasks import SEED, STRATEGIES, Regression, loader, plain_loop, windows
from tests.transforms.golden import Golden
from tests.transforms.small import Small

from . import models
from .processes import CASES, RUNS, SHARDED, WIDE, measured, transformed
from .results import Results, assert_alike, assert_gradients_alike, flat, results_of, sums_up

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)], ids=["on_two", "on_four"])
def results(request: pytest.FixtureRequest) -> Results:
    return results_of(request.param)


@pytest.mark.parametrize("case", sorted({*CASES} - {"refused"}))  # that a rank holds too few rows, it alone sees
def test_all_ranks_come_to_the_same(results: Results, case: str) -> None:
    first, *others = results[case]
    assert first
    assert all(flat(other) == flat(first) for other in others)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # of the compiler's own
@pytest.mark.parametrize("name", WIDE)
def test_large_gradients_are_those_of_one_process(results: Results, name: str) -> None:
    expected = transformed(models.Wide(), WIDE[name])
    assert any(gradient is not None and gradient.any() for gradient in expected[0][0].values())
    assert_alike(results["wide"][0][name], expected, to_the_bit=not sums_up(WIDE[name]))


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


def test_what_one_rank_alone_has_beside_shards_keeps_the_ranks_together(results: Results) -> None:
    clipped, left_out = results["lopsided"][0]
    expected, _ = transformed(Small(), ComponentNormClip(0.5))
    del expected[0]["temperature"], clipped["temperature"]
    assert_gradients_alike(clipped, expected[0], to_the_bit=False)
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


@pytest.mark.parametrize("row", SHARDED, ids=str)
def test_a_meter_sees_what_it_sees_of_one_process(results: Results, row: Golden) -> None:
    expected = measured(Small(), row.transform)
    for seen, alone in zip(results["metered"][0][SHARDED.index(row)], expected, strict=True):
        skipped = seen[0].isnan() | alone[0].isnan()  # not computed by one of the two, for it is dropped whole
        assert not seen[1:, skipped].any()
        torch.testing.assert_close(seen[:, ~skipped], alone[:, ~skipped], rtol=1e-5, atol=1e-6, equal_nan=True)


def test_what_callbacks_record_is_of_whole_tensors(results: Results) -> None:
    (gradients, distances), weights = results["recorded"][0]
    start, names = dict(Regression().named_parameters()), list(weights)
    assert gradients[:, -1].max() == 1
    assert 0.4 < gradients[:, -1].mean() < 0.8
    for (*_, rms, cosine), name in zip(distances[-len(names) :].tolist(), names, strict=True):
        now, before = weights[name].double().flatten(), start[name].detach().double().flatten()
        assert rms == pytest.approx(float((now - before).square().mean().sqrt()), rel=1e-4)
        assert cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(now, before, dim=0)), rel=1e-5)


def test_distances_of_a_resumed_fit_start_where_late_weights_were_made(results: Results) -> None:
    whole, again = results["made_late"][0]
    assert torch.equal(whole, again)
