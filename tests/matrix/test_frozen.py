"""Frozen rows and entries of sharded models: the mask is that of one process, and no bit outside of it moves."""

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lightning_sparsegrad import ConfigurationError, GradientEngine, GradientTransform, SparseMask, TrainableRows
from lightning_sparsegrad.functional import select_largest
from tests.engine.helpers import backward, loss_on, tokens_at
from tests.functional.test_selection import NUMBERS, largest_by_sorting
from tests.transforms.frozen import assert_frozen, masks_of
from tests.transforms.small import SEED, Small, assert_same_bits

from . import sharded
from .ranks import Results, case

pytestmark = pytest.mark.distributed

STEPS, WINDOWS, STOP = 5, 2, 3
STRATEGIES: dict[str, GradientTransform] = {
    "rows": TrainableRows({"embeddings.weight": [0, 3, 6], "*.bias": [1]}, others="frozen"),
    "random entries": SparseMask(0.3, score="random"),
    "random rows": SparseMask(0.3, score="random", structure="row", exclude_head=False),
    "largest entries": SparseMask(0.2, score="weight", scope="tensor"),
    "largest rows": SparseMask(0.2, score="weight", structure="row", exclude="*.bias"),
    "nonzero": SparseMask(score="nonzero"),
    "fisher": SparseMask(0.2, calibration_windows=WINDOWS),
    "movement": SparseMask(0.2, score="movement", structure="row", scope="tensor", calibration_windows=WINDOWS),
}
RESUMED = ("rows", "fisher", "movement")
Trained = dict[str, Any]


def some(names: Iterable[str], count: int) -> list[str]:
    """Return which of some strategies are run; two processes leave to four all but the first of a kind."""
    return [name for name in names if count > 2 or name in {"rows", "random rows", "largest entries", "fisher"}]


# ---------------------------------------------------------------- what each rank does
def pruned() -> Small:
    """Return a model some of whose weights are zero."""
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[1::3] = 0.0
    return model


class Training:
    """A model in training, sharded or not.

    Args:
        strategy: Its strategy.
        mesh: The processes it is sharded over.
    """

    def __init__(self, strategy: GradientTransform, mesh: DeviceMesh | None = None) -> None:
        self.model = pruned() if mesh is None else sharded.shard(pruned(), mesh, to_train=True)
        self.rank, self.ranks = (0, 1) if mesh is None else (mesh.get_rank(), mesh.size())
        self.engine = GradientEngine(self.model, deepcopy(strategy), seed=SEED)
        parameters = [parameter for parameter in self.model.parameters() if parameter.ndim]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)
        self.engine.attach(self.optimizer)

    def step(self, step: int) -> None:
        self.optimizer.zero_grad()
        with self.engine.window(step):
            torch.rand(1 + self.rank)
            backward(loss_on(self.model, tokens_at(step, 8).chunk(self.ranks)[self.rank]))
            self.model.get_parameter("temperature").grad = None  # not FSDP2's, so it reduces nothing there
            self.engine.apply_()
        self.optimizer.step()

    def run(self, first: int = 0) -> Trained:
        """Train; return the weights before, while nothing steps and after, and what trained."""
        before = sharded.gathered_weights(self.model)
        for step in range(first, STEPS):
            self.step(step)
            if step == WINDOWS - 1:
                calibrated = sharded.gathered_weights(self.model)
        masks = {name: mask.clone() for name, mask in masks_of(self.engine).items()}
        after = sharded.gathered_weights(self.model)
        return {"before": before, "calibrated": calibrated if first == 0 else None, "after": after, "masks": masks}


@case
def frozen(mesh: DeviceMesh, _: Path) -> Any:
    return {name: Training(STRATEGIES[name], mesh).run() for name in some(STRATEGIES, mesh.size())}


@case
def frozen_and_resumed(mesh: DeviceMesh, _: Path) -> Any:
    """Return what a run in other objects, from the states of another one, comes to."""
    done = {}
    for name in some(RESUMED, mesh.size()):
        whole, again = (Training(STRATEGIES[name], mesh) for _ in range(2))
        for step in range(STOP):
            whole.step(step)
        again.model.load_state_dict(whole.model.state_dict())
        again.optimizer.load_state_dict(deepcopy(whole.optimizer.state_dict()))
        again.engine.load_state_dict(deepcopy(whole.engine.state_dict()))
        done[name] = again.run(first=STOP)
    return done


@case
def resumed_inside_calibration(mesh: DeviceMesh, _: Path) -> Any:
    """Return what a resume from a checkpoint without scores says."""
    whole, again = (Training(STRATEGIES["fisher"], mesh) for _ in range(2))
    whole.step(0)
    again.engine.load_state_dict(whole.engine.state_dict())
    try:
        again.step(1)
    except ConfigurationError as error:
        return str(error)
    return ""


SHAPES = [(7, 3), (1, 4), (5,), (2, 2, 2)]  # on two processes or four, some hold no row
COUNTS = [0, 1, 9, 20, 30, 38]


def scores() -> list[Tensor]:
    """Return scores with many ties, some of them undefined."""
    generator = torch.Generator().manual_seed(2)
    pool = torch.tensor(NUMBERS)
    return [pool[torch.randint(len(pool), shape, generator=generator)] for shape in SHAPES]


@case
def selected(mesh: DeviceMesh, _: Path) -> Any:
    """Select from tensors that are sharded by rows, and from one that each process holds whole."""
    rank, ranks, group, whole = mesh.get_rank(), mesh.size(), mesh.get_group(), 2
    rows = [range(len(score))[rank * (size := -(-len(score) // ranks)) : (rank + 1) * size] for score in scores()]
    held = [
        score if index == whole else score[list(own)]
        for index, (score, own) in enumerate(zip(scores(), rows, strict=True))
    ]
    groups = [None if index == whole else group for index in range(len(held))]
    chosen = []
    for count in COUNTS:
        masks = select_largest(held, count, groups=groups)
        everyone: list[Any] = [None] * ranks
        torch.distributed.all_gather_object(everyone, masks)
        together = [
            masks[index] if index == whole else torch.cat([theirs[index] for theirs in everyone])
            for index in range(len(held))
        ]
        chosen.append([mask.flatten().tolist() for mask in together])
    return chosen


# ---------------------------------------------------------------- what is expected of it
def test_no_bit_moves_on_shards_and_the_mask_is_that_of_one_process(
    results: Results, subtests: pytest.Subtests
) -> None:
    for name in some(STRATEGIES, results.count):
        with subtests.test(name):
            trained, alone = results["frozen"][0][name], Training(STRATEGIES[name]).run()
            assert_frozen(trained["after"], trained["before"], trained["masks"])
            if getattr(STRATEGIES[name], "calibration_windows", 0):
                assert_same_bits(trained["calibrated"], trained["before"])
            assert_same_bits(trained["masks"], alone["masks"])
            torch.testing.assert_close(trained["after"], alone["after"], rtol=1e-3, atol=2e-4)


def test_no_bit_moves_on_shards_after_a_resume(results: Results, subtests: pytest.Subtests) -> None:
    for name in some(RESUMED, results.count):
        with subtests.test(name):
            again, whole = results["frozen_and_resumed"][0][name], results["frozen"][0][name]
            assert_same_bits(again["masks"], whole["masks"])
            assert_same_bits(again["after"], whole["after"])
            assert_frozen(again["after"], again["before"], again["masks"])


def test_a_resume_inside_a_calibration_on_shards_is_refused(results: Results) -> None:
    assert (
        "on sharded models one within it holds no scores. Found step 1 of 2" in results["resumed_inside_calibration"][0]
    )


def test_a_selection_from_shards_is_that_of_one_process(results: Results) -> None:
    assert results["selected"][0] == [largest_by_sorting(scores(), count) for count in COUNTS]
