"""DDP: replicas stay the same bit for bit after every step, and train as one process with all their batches does.

Every rank has its own data, in batches of its own size, and uses the global random state in its own way.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.data import DataLoader

from lightning_sparsegrad import AutoClip, Chain, ComponentNormClip, GradDrop, GradientTransform, LayerGradDrop
from tests.cases import cases
from tests.lightning.tasks import assert_same_weights, door_of, through, trainer, weights
from tests.transforms.golden import Golden
from tests.transforms.small import SEED, STEPS_PER_EPOCH, TOTAL_STEPS, assert_same_bits, flat

from .ranks import CASES, LONG, SHORT, Results
from .task import (
    ACCUMULATE,
    EPOCHS,
    LINES,
    MICRO_BATCHES,
    ROWS,
    Plan,
    Seen,
    Task,
    Transposed,
    Witness,
    assert_close,
    assert_follows_reference,
    every_row,
    in_plain_loop,
    plan,
)


# ---------------------------------------------------------------- what each rank does
class Drifting(Task):
    """Draws other random numbers on every rank, and counts the gradients that are not computed."""

    skipped = 0

    def loss(self, tokens: Tensor) -> Tensor:
        torch.rand(1 + self.global_rank)
        self.skipped += sum(not parameter.requires_grad for parameter in self.parameters())
        return super().loss(tokens)


class DriftingTransposed(Drifting, Transposed):
    """The same, with bits that can be compared."""


class Dropping(Drifting):
    """Drops out other words on every rank."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.where(torch.rand(tokens.shape) > 0.3, 0))


class Compiled(Drifting):
    """Has blocks that are compiled one by one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for block in self.blocks:
            block.compile(backend="eager")


class Overflowing(Drifting):
    """Overflows on the last rank, in the third step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        last = self.global_rank == self.trainer.world_size - 1
        return loss * torch.inf if last and self.trainer.global_step == 2 else loss


class Lossless(Drifting):
    """Has no loss for the closing micro-batch of a window."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        return None if batch_idx == ACCUMULATE - 1 else super().training_step(batch, batch_idx)


@dataclass(frozen=True)
class Run:
    """One fit: which strategy, through which door, and what the ranks did before it."""

    transform: GradientTransform
    door: str = "module"
    accumulate: int = 1
    kind: type[Drifting] = Drifting
    seeding: str = "the same"
    skip: bool = True
    ddp: Sequence[str] = ()  # what is switched on
    half: bool = False


UNUSED, VIEWS = "find_unused_parameters", "gradient_as_bucket_view"
BOTH = Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.5)})
LAYERS = LayerGradDrop(0.5)

PLAIN = {f"{i}": Run(row.transform) for i, row in enumerate(ROWS)}  # as most people run DDP
SKIPPING = {  # with all that is switched on for skipping
    f"{i}, skipping": Run(row.transform, "callback", ACCUMULATE, ddp=(UNUSED, VIEWS)) for i, row in enumerate(ROWS)
}
SEEDED = {
    "seeds that differ": Run(BOTH, seeding="differs"),
    "no seed": Run(BOTH, "callback", seeding="none"),
    "layers without a seed": Run(LAYERS, seeding="none"),
}
DROPOUT = {
    "dropout": Run(BOTH, kind=Dropping),
    "dropout of layers": Run(LAYERS, "callback", ACCUMULATE, Dropping, ddp=(UNUSED,)),
}
SKIPPED = {
    "layers": Run(LAYERS, kind=DriftingTransposed, ddp=(UNUSED,)),
    "layers in views": Run(LAYERS, "callback", kind=DriftingTransposed, ddp=(UNUSED, VIEWS)),
}
COMPUTED = {  # although they are dropped
    "layers without the flag": Run(LAYERS, kind=DriftingTransposed, ddp=(VIEWS,)),
    "layers in a static graph": Run(LAYERS, kind=DriftingTransposed, ddp=(UNUSED, "static_graph")),
    "layers not to be skipped": Run(LAYERS, "callback", kind=DriftingTransposed, ddp=(UNUSED,), skip=False),
}
COMPILED = {"compiled layers": Run(LAYERS, "callback", ACCUMULATE, Compiled, ddp=(UNUSED,))}
HALF = {
    "fp16 that overflows on one rank": Run(BOTH, kind=Overflowing, half=True),
    "fp16 that overflows on one rank, learning": Run(AutoClip(50.0), kind=Overflowing, half=True),
}
RUNS = PLAIN | SKIPPING | SEEDED | DROPOUT | SKIPPED | COMPUTED | COMPILED | HALF
REFUSED = {"no loss": Run(BOTH, accumulate=ACCUMULATE, kind=Lossless)}


def ways_of(row: Golden, count: int = 4) -> list[str]:
    """Return the runs of a golden row.

    On two processes, of the first row of a class alone: with skipping where it drops tensors whole, else without. On
    four, all but what two run without skipping.
    """
    index = ROWS.index(row)
    plain, skipping = f"{index}", f"{index}, skipping"
    is_first = all(type(other.transform) is not type(row.transform) for other in ROWS[:index])
    on_two = [skipping if any(row.dropped) else plain] if is_first else []
    return on_two if count == 2 else [name for name in (plain, skipping) if name == skipping or name not in on_two]


def share(rank: int) -> list[Tensor]:
    """Return the micro-batches of a rank."""
    generator = torch.Generator().manual_seed(rank)
    return [torch.randint(7, (2 + rank, LINES), generator=generator) for _ in range(MICRO_BATCHES)]


def joint_plan(case: Run, world: int) -> Plan:
    """Return what one process does with the data of all ranks."""
    together: Any = list(zip(*map(share, range(world)), strict=True))[: _micro_batches(case)]
    return [
        (epoch, size * world, [batch for micro_batch in window for batch in micro_batch])
        for epoch, size, window in plan(*[case.accumulate] * EPOCHS, batches=together)
    ]


def _micro_batches(case: Run) -> int:
    return MICRO_BATCHES if case.accumulate > 1 else STEPS_PER_EPOCH


class Digests(Callback):
    """Keeps a hash of all weights and of what the strategy has learnt after every optimizer step."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > len(self.digests):
            state = flat(door_of(trainer).gradient_engine.transform.state_dict())
            self.digests.append(blake2b(repr([*flat(weights(pl_module)), *state]).encode()).hexdigest())


def prepare(case: Run, rank: int) -> None:
    """Seed a rank."""
    if case.seeding == "none":
        os.environ.pop("PL_GLOBAL_SEED", None)
        torch.manual_seed(100 + rank)
    else:
        seed_everything(SEED + (rank if case.seeding == "differs" else 0), verbose=False)


def train(case: Run, rank: int, world: int) -> dict[str, Any]:
    """Run a case; return its result in plain numbers and tensors."""
    prepare(case, rank)
    task, doors = through(case.door, case.transform, case.kind, skip_dropped=case.skip)
    digests, witness = Digests(), Witness()
    data: Any = share(rank)
    switched_on: dict[str, Any] = dict.fromkeys(case.ddp, True)
    scaler = torch.amp.GradScaler("cpu", 16.0, enabled=case.half)
    run = trainer(
        devices=world,
        strategy=DDPStrategy(**switched_on),
        use_distributed_sampler=False,
        callbacks=[digests, witness, *doors],
        accumulate_grad_batches=case.accumulate,
        max_epochs=EPOCHS,
        limit_train_batches=_micro_batches(case),
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)] if case.half else None,
    )
    run.fit(task, DataLoader(data, batch_size=None))
    return {
        "weights": weights(task),
        "digests": digests.digests,
        "seen": [(window.before, window.after, window.scale, window.weights) for window in witness.seen],
        "seed": door_of(run).gradient_engine.seed,
        "skipped": task.skipped,
        "scale": scaler.get_scale(),
        "random": torch.rand(1),
    }


def started(case: Run, mesh: DeviceMesh, _: Path) -> Any:
    """Run a case on one of the processes; return its result, or the error if it is refused."""
    if case not in REFUSED.values():
        return train(case, mesh.get_rank(), mesh.size())
    with pytest.raises(RuntimeError) as refused:
        train(case, mesh.get_rank(), mesh.size())
    return str(refused.value)


CASES.update({name: partial(started, case) for name, case in {**RUNS, **REFUSED}.items()})
LONG |= {name for row in ROWS for name in {*ways_of(row)} - {*ways_of(row, 2)}}
SHORT |= {name for row in ROWS for name in {*ways_of(row, 2)} - {*ways_of(row)}}


# ---------------------------------------------------------------- what is expected of it
EXPECTED_SEEDS = {"the same": SEED, "differs": SEED, "none": 100}

pytestmark = pytest.mark.distributed


def row_of(transform: GradientTransform) -> Golden:
    return next(row for row in ROWS if str(row) == str(transform))


def seen(result: dict[str, Any]) -> list[Seen]:
    return [Seen(*window) for window in result["seen"]]


def assert_replicas_stay_the_same(results: Results, name: str) -> None:
    first, *others = results[name]
    assert len(first["digests"]) == TOTAL_STEPS
    assert len(set(first["digests"])) > 1
    for other in others:
        assert other["digests"] == first["digests"]
        assert other["seed"] == first["seed"] == EXPECTED_SEEDS[RUNS[name].seeding]
        assert other["skipped"] == first["skipped"]
        assert not torch.equal(other["random"], first["random"]), "the ranks should use the random state differently"


def assert_ranks_follow_reference(row: Golden, results: Results, name: str) -> None:
    first, *others = map(seen, results[name])
    assert_follows_reference(row, first)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert_same_bits(theirs.before, mine.before)
            assert_same_bits(theirs.after, mine.after)


def assert_trained_as_by_one_process(row: Golden, results: Results, name: str) -> None:
    alone = Drifting()
    expected = in_plain_loop(row, joint_plan(RUNS[name], results.count), lambda: alone)
    assert_close(results[name][0]["weights"], expected)
    skipped = sum(result["skipped"] for result in results[name])
    assert skipped == (alone.skipped if name in SKIPPING else 0)  # work is skipped where DDP allows it


# ---------------------------------------------------------------- every strategy
@every_row
def test_replicas_stay_the_same_and_train_as_one_process(results: Results, row: Golden) -> None:
    names = ways_of(row, results.count)
    if not names:
        pytest.skip("more processes run it")
    for name in names:
        assert_replicas_stay_the_same(results, name)
        assert_ranks_follow_reference(row, results, name)
        assert_trained_as_by_one_process(row, results, name)


# ---------------------------------------------------------------- seeds, dropout, switches
@cases("name", [name for name in RUNS if not name[0].isdigit()])
def test_replicas_are_the_same_whatever_the_ranks_do(results: Results, name: str) -> None:
    assert_replicas_stay_the_same(results, name)


@cases("name", SEEDED)
def test_the_seed_of_the_first_rank_is_everybodys(results: Results, name: str) -> None:
    case = RUNS[name]
    row = row_of(case.transform)
    seed = EXPECTED_SEEDS[case.seeding]
    assert_close(results[name][0]["weights"], in_plain_loop(row, joint_plan(case, results.count), seed=seed))


def test_dropout_differs_between_ranks_and_masks_do_not(results: Results) -> None:
    assert_ranks_follow_reference(row_of(RUNS["dropout"].transform), results, "dropout")
    assert_ranks_follow_reference(row_of(LAYERS), results, "dropout of layers")
    assert results["dropout of layers"][0]["skipped"] > 0


@cases("name", SKIPPED)
def test_skipping_changes_nothing(results: Results, name: str) -> None:
    """Two numbers have one sum; of four, it depends on how DDP packs the tensors that take part."""
    same = assert_same_weights if results.count == 2 else assert_close
    assert results[name][0]["skipped"] > 0
    for computed in COMPUTED:
        assert results[computed][0]["skipped"] == 0
        same(results[name][0]["weights"], results[computed][0]["weights"])


@cases("name", COMPILED)
def test_compiled_blocks_are_skipped_with_the_same_bits(results: Results, name: str) -> None:
    index = ROWS.index(row_of(LAYERS))
    for actual, expected in zip(results[name], results[f"{index}, skipping"], strict=True):
        assert actual["skipped"] == expected["skipped"] > 0
        assert_same_weights(actual["weights"], expected["weights"])


@cases("name", HALF)
def test_an_overflow_on_one_rank_skips_the_step_on_all(results: Results, name: str) -> None:
    stays = [before == after for before, after in pairwise(results[name][0]["digests"])]
    assert stays == [False, True, False, False, False]
    assert {result["scale"] for result in results[name]} == {8.0}


@cases("name", REFUSED)
def test_a_micro_batch_without_a_loss_is_refused_by_the_trainer(results: Results, name: str) -> None:
    """Gradients that the ranks have not reduced yet would be transformed differently, and replicas would diverge."""
    for error in results[name]:
        assert "returning None in distributed training is not supported" in error
