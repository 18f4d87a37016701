"""What each of two processes does for test_distributed.py: train every case, and write down what came of it.

Started by `torch.distributed.run`, with a folder as its argument. Rank r trains on every second sample from r on, so
that a batch of both is a batch of `loader()`.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from .tasks import SEED, STRATEGIES, Batch, Regression, dataset, door_of, through, trainer, weights


@dataclass(frozen=True)
class Case:
    """A run: which strategy, through which door, and what the ranks did before it."""

    strategy: str
    door: str
    accumulate: int = 1
    seeding: str = "the same"
    skip: bool = True
    ddp: Sequence[str] = ()  # what is switched on


CASES = {
    **{f"{name} through the {door}": Case(name, door) for name in STRATEGIES for door in ("module", "callback")},
    "accumulation": Case("mask and clip", "module", accumulate=3),
    "accumulation of layers": Case("layers", "callback", accumulate=3),
    "seeds that differ": Case("mask and clip", "module", seeding="differs"),
    "no seed": Case("mask and clip", "callback", seeding="none"),
    "layers without a seed": Case("layers", "module", seeding="none"),
}
UNUSED = ("find_unused_parameters",)
SKIPPING = {
    **{
        f"{name}, skipped{'' if accumulate == 1 else ' and accumulated'}": Case(name, door, accumulate, ddp=UNUSED)
        for name in ("layers", "head", "tensors")
        for door, accumulate in (("module", 1), ("callback", 3))
    },
    "layers in views of buckets": Case("layers", "module", ddp=(*UNUSED, "gradient_as_bucket_view")),
}
COMPUTED = {  # although they are dropped
    "layers without the flag": Case("layers", "module"),
    "layers in a static graph": Case("layers", "module", ddp=(*UNUSED, "static_graph")),
    "layers not to be skipped": Case("layers", "callback", ddp=UNUSED, skip=False),
}
CASES |= SKIPPING | COMPUTED


class Drifting(Regression):
    """Draws other random numbers on every rank, and counts the gradients that are not computed."""

    skipped = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        torch.rand(1 + self.global_rank)
        self.skipped += sum(not parameter.requires_grad for parameter in self.parameters())
        return super().training_step(batch, batch_idx)


def prepare(case: Case, rank: int) -> None:
    """Seed a rank."""
    if case.seeding == "none":
        os.environ.pop("PL_GLOBAL_SEED", None)
        torch.manual_seed(100 + rank)
    else:
        seed_everything(SEED + (rank if case.seeding == "differs" else 0), verbose=False)


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    for name, case in CASES.items():
        prepare(case, rank)
        switched_on: dict[str, Any] = dict.fromkeys(case.ddp, True)
        task, callbacks = through(case.door, STRATEGIES[case.strategy], Drifting, skip_dropped=case.skip)
        run = trainer(
            devices=2,
            strategy=DDPStrategy(**switched_on),
            use_distributed_sampler=False,
            callbacks=callbacks,
            accumulate_grad_batches=case.accumulate,
            max_epochs=2,
        )
        samples = dataset()
        run.fit(task, DataLoader(Subset(samples, range(rank, len(samples), 2))))
        result = {
            "weights": weights(task),
            "seed": door_of(run).gradient_engine.seed,
            "steps": run.global_step,
            "skipped": task.skipped,
            "random": torch.rand(1),
        }
        torch.save(result, folder / f"{name} {rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
