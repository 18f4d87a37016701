"""What each of n processes does for test_ddp.py: train every case, and write down what came of it.

Started by tests/launch.py, with a folder as its argument. Every rank has its own data, in batches of its own
size, and uses the global random state in its own way.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientTransform, LayerGradDrop
from tests.lightning.tasks import door_of, through, trainer, weights
from tests.transforms.golden import GOLDEN
from tests.transforms.small import SEED, STEPS_PER_EPOCH

from .task import ACCUMULATE, EPOCHS, LINES, MICRO_BATCHES, Plan, Task, Transposed, Witness, plan


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
class Case:
    """A run: which strategy, through which door, and what the ranks did before it."""

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

ROWS = {  # every golden row, by its index: as most people run DDP, and with all that is switched on for skipping
    **{f"{i}": Case(row.transform) for i, row in enumerate(GOLDEN)},
    **{
        f"{i}, skipping": Case(row.transform, "callback", ACCUMULATE, ddp=(UNUSED, VIEWS))
        for i, row in enumerate(GOLDEN)
    },
}
SEEDED = {
    "seeds that differ": Case(BOTH, seeding="differs"),
    "no seed": Case(BOTH, "callback", seeding="none"),
    "layers without a seed": Case(LAYERS, seeding="none"),
}
DROPOUT = {
    "dropout": Case(BOTH, kind=Dropping),
    "dropout of layers": Case(LAYERS, "callback", ACCUMULATE, Dropping, ddp=(UNUSED,)),
}
SKIPPED = {
    "layers": Case(LAYERS, kind=DriftingTransposed, ddp=(UNUSED,)),
    "layers in views": Case(LAYERS, "callback", kind=DriftingTransposed, ddp=(UNUSED, VIEWS)),
}
COMPUTED = {  # although they are dropped
    "layers without the flag": Case(LAYERS, kind=DriftingTransposed, ddp=(VIEWS,)),
    "layers in a static graph": Case(LAYERS, kind=DriftingTransposed, ddp=(UNUSED, "static_graph")),
    "layers not to be skipped": Case(LAYERS, "callback", kind=DriftingTransposed, ddp=(UNUSED,), skip=False),
}
COMPILED = {"compiled layers": Case(LAYERS, "callback", ACCUMULATE, Compiled, ddp=(UNUSED,))}
HALF = {"fp16 that overflows on one rank": Case(BOTH, kind=Overflowing, half=True)}
CASES = ROWS | SEEDED | DROPOUT | SKIPPED | COMPUTED | COMPILED | HALF
REFUSED = {"no loss": Case(BOTH, accumulate=ACCUMULATE, kind=Lossless)}


def share(rank: int) -> list[Tensor]:
    """Return the micro-batches of a rank."""
    generator = torch.Generator().manual_seed(rank)
    return [torch.randint(7, (2 + rank, LINES), generator=generator) for _ in range(MICRO_BATCHES)]


def joint_plan(case: Case, world: int) -> Plan:
    """Return what one process does with the data of all ranks."""
    together: Any = list(zip(*map(share, range(world)), strict=True))[: _micro_batches(case)]
    return [
        (epoch, size * world, [batch for micro_batch in window for batch in micro_batch])
        for epoch, size, window in plan(*[case.accumulate] * EPOCHS, batches=together)
    ]


def _micro_batches(case: Case) -> int:
    return MICRO_BATCHES if case.accumulate > 1 else STEPS_PER_EPOCH


class Digests(Callback):
    """Keeps a hash of all weights after every optimizer step."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > len(self.found):
            bits = b"".join(weight.numpy().tobytes() for weight in weights(pl_module).values())
            self.found.append(blake2b(bits).hexdigest())


def prepare(case: Case, rank: int) -> None:
    """Seed a rank."""
    if case.seeding == "none":
        os.environ.pop("PL_GLOBAL_SEED", None)
        torch.manual_seed(100 + rank)
    else:
        seed_everything(SEED + (rank if case.seeding == "differs" else 0), verbose=False)


def train(case: Case, rank: int, world: int) -> dict[str, Any]:
    """Run a case; return what came of it, in plain numbers and tensors."""
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
        "digests": digests.found,
        "seen": [(window.before, window.after, window.scale, window.weights) for window in witness.seen],
        "seed": door_of(run).gradient_engine.seed,
        "skipped": task.skipped,
        "scale": scaler.get_scale(),
        "random": torch.rand(1),
    }


def main(folder: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    results: dict[str, Any] = {name: train(case, rank, world) for name, case in CASES.items()}
    for name, case in REFUSED.items():
        try:
            train(case, rank, world)
        except RuntimeError as error:
            results[name] = str(error)
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
