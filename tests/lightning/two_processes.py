"""What each of two processes does for test_distributed.py: train every case, and write down what came of it.

Started by `torch.distributed.run`, with a folder as its argument. Rank r trains on every second sample from r on, so
that a batch of both is a batch of `loader()`.
"""

import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
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


CASES = {
    **{f"{name} through the {door}": Case(name, door) for name in STRATEGIES for door in ("module", "callback")},
    "accumulation": Case("mask and clip", "module", accumulate=3),
    "accumulation of layers": Case("layers", "callback", accumulate=3),
    "seeds that differ": Case("mask and clip", "module", seeding="differs"),
    "no seed": Case("mask and clip", "callback", seeding="none"),
    "layers without a seed": Case("layers", "module", seeding="none"),
}


class Drifting(Regression):
    """Draws other random numbers on every rank."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        torch.rand(1 + self.global_rank)
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
        task, callbacks = through(case.door, STRATEGIES[case.strategy], Drifting)
        run = trainer(
            devices=2,
            strategy="ddp",
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
            "random": torch.rand(1),
        }
        torch.save(result, folder / f"{name} {rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
