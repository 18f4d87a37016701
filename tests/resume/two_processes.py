"""Each of two processes trains, resumes from checkpoints, and compares.

Writes down, for each case and rank, from how many checkpoints the run resumed exactly, and where it first did not.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.lightning.tasks import STRATEGIES, Batch
from tests.lightning.test_checkpoints import RESUMED
from tests.resume.runs import THOROUGH, Sensitive, assert_went_on, every_step, fit, some_checkpoints
from tests.resume.test_exact_resume import LOADERS, Noisy, weighted

CASES: dict[str, dict[str, Any]] = {
    "the module": {"door": "module", "transform": STRATEGIES["mask and clip"]},
    "the callback": {"door": "callback", "transform": RESUMED["state"], "accumulate_grad_batches": 3},
    "validation within the epoch": {"door": "module", "transform": RESUMED["unfreezing"], "val_check_interval": 2},
    "a sampler with a generator": {"door": "callback", "transform": STRATEGIES["layers"], "data": weighted},
    "no length": {"door": "module", "transform": STRATEGIES["layers"], "data": LOADERS["no length"]},
}

TRIED = list(CASES) if THOROUGH else ["the module", "the callback", "no length"]


class Drifting(Sensitive):
    """Draws other random numbers on every rank."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        torch.rand(1 + self.global_rank)
        return super().training_step(batch, batch_idx)


def noisy() -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_size=1, shuffle=True)


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    for name in TRIED:
        case = CASES[name]
        data = case.get("data", noisy)
        arguments = {**case, "devices": 2, "strategy": "ddp", "max_epochs": 2, "kind": Drifting}
        _, whole = fit(callbacks=every_step(folder / name), **{**arguments, "data": data()})
        exact, fault = 0, ""
        for path in some_checkpoints(folder / name, 1):
            _, resumed = fit(path=path, **{**arguments, "data": data()})
            try:
                assert_went_on(resumed, whole, path)
                exact += 1
            except AssertionError as error:
                fault = fault or f"{path.name}: {error}"
        result = {"exact": exact, "fault": fault, "random": whole.states["random"], "seen": whole.seen}
        torch.save(result, folder / f"{name} {rank}.pt")
