"""DDP: replicas stay the same bit for bit after every step, and train as one process with all their batches does."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from lightning_sparsegrad import GradientTransform
from tests.launch import launch
from tests.lightning.tasks import assert_same_weights
from tests.transforms.golden import GOLDEN, Golden
from tests.transforms.small import SEED, TOTAL_STEPS, assert_same_bits

from .ranks import CASES, COMPILED, COMPUTED, HALF, LAYERS, REFUSED, SEEDED, SKIPPED, Drifting, joint_plan
from .task import Seen, assert_close, assert_follows_reference, every_row, in_plain_loop

EXPECTED_SEEDS = {"the same": SEED, "differs": SEED, "none": 100}

Results = list[dict[str, Any]]  # what each rank wrote down, by case

pytestmark = pytest.mark.distributed

each_way = pytest.mark.parametrize("way", ["", ", skipping"], ids=["as it is", "skipping"])


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)], ids=["on_two", "on_four"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Train all cases in n processes, started once; return what each rank wrote down."""
    folder = tmp_path_factory.mktemp("ranks")
    launch("tests.matrix.ranks", request.param, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def row_of(transform: GradientTransform) -> Golden:
    return next(row for row in GOLDEN if str(row) == str(transform))


def seen(result: dict[str, Any]) -> list[Seen]:
    return [Seen(*window) for window in result["seen"]]


def assert_replicas_stay_the_same(results: Results, name: str) -> None:
    first, *others = (result[name] for result in results)
    assert len(first["digests"]) == TOTAL_STEPS
    assert len(set(first["digests"])) > 1
    for other in others:
        assert other["digests"] == first["digests"]
        assert other["seed"] == first["seed"] == EXPECTED_SEEDS[CASES[name].seeding]
        assert other["skipped"] == first["skipped"]
        assert not torch.equal(other["random"], first["random"]), "the ranks should use the random state differently"


def assert_ranks_follow_reference(row: Golden, results: Results, name: str) -> None:
    first, *others = (seen(result[name]) for result in results)
    assert_follows_reference(row, first)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert_same_bits(theirs.before, mine.before)
            assert_same_bits(theirs.after, mine.after)


# ---------------------------------------------------------------- every strategy
@every_row
@each_way
def test_replicas_are_the_same_after_every_step(results: Results, row: Golden, way: str) -> None:
    assert_replicas_stay_the_same(results, f"{GOLDEN.index(row)}{way}")


@every_row
@each_way
def test_every_rank_masks_and_clips_the_reduced_gradient(results: Results, row: Golden, way: str) -> None:
    assert_ranks_follow_reference(row, results, f"{GOLDEN.index(row)}{way}")


@every_row
@each_way
def test_replicas_train_as_one_process(results: Results, row: Golden, way: str) -> None:
    name = f"{GOLDEN.index(row)}{way}"
    expected = in_plain_loop(row, joint_plan(CASES[name], len(results)))
    assert_close(results[0][name]["weights"], expected)


@every_row
def test_work_is_skipped_where_ddp_allows_it(results: Results, row: Golden) -> None:
    name = f"{GOLDEN.index(row)}"
    assert results[0][name]["skipped"] == 0
    alone = Drifting()
    in_plain_loop(row, joint_plan(CASES[f"{name}, skipping"], len(results)), lambda: alone)
    assert sum(result[f"{name}, skipping"]["skipped"] for result in results) == alone.skipped


# ---------------------------------------------------------------- seeds, dropout, switches
@pytest.mark.parametrize("name", [name for name in CASES if not name[0].isdigit()])
def test_replicas_are_the_same_whatever_the_ranks_do(results: Results, name: str) -> None:
    assert_replicas_stay_the_same(results, name)


@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_of_the_first_rank_is_everybodys(results: Results, name: str) -> None:
    case = CASES[name]
    row = row_of(case.transform)
    seed = EXPECTED_SEEDS[case.seeding]
    assert_close(results[0][name]["weights"], in_plain_loop(row, joint_plan(case, len(results)), seed=seed))


def test_dropout_differs_between_ranks_and_masks_do_not(results: Results) -> None:
    assert_ranks_follow_reference(row_of(CASES["dropout"].transform), results, "dropout")
    assert_ranks_follow_reference(row_of(LAYERS), results, "dropout of layers")
    assert results[0]["dropout of layers"]["skipped"] > 0


@pytest.mark.parametrize("name", SKIPPED)
def test_skipping_changes_nothing(results: Results, name: str) -> None:
    """Two numbers have one sum; of four, it depends on how DDP packs the tensors that take part."""
    same = assert_same_weights if len(results) == 2 else assert_close
    assert results[0][name]["skipped"] > 0
    for computed in COMPUTED:
        assert results[0][computed]["skipped"] == 0
        same(results[0][name]["weights"], results[0][computed]["weights"])


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_blocks_are_skipped_with_the_same_bits(results: Results, name: str) -> None:
    index = GOLDEN.index(row_of(LAYERS))
    for result in results:
        assert result[name]["skipped"] == result[f"{index}, skipping"]["skipped"] > 0
        assert_same_weights(result[name]["weights"], result[f"{index}, skipping"]["weights"])


@pytest.mark.parametrize("name", HALF)
def test_an_overflow_on_one_rank_skips_the_step_on_all(results: Results, name: str) -> None:
    stays = [before == after for before, after in pairwise(results[0][name]["digests"])]
    assert stays == [False, True, False, False, False]
    assert {result[name]["scale"] for result in results} == {8.0}


@pytest.mark.parametrize("name", REFUSED)
def test_a_micro_batch_without_a_loss_is_refused_by_the_trainer(results: Results, name: str) -> None:
    """What the ranks have not reduced yet would be applied otherwise, and tear the replicas apart."""
    for result in results:
        assert "returning None in distributed training is not supported" in result[name]
