"""Trains through the command line, killed again and again, and compares with a run that was not.

Started as a program by test_kills.py, with a folder, a number of kills and a seed. Each run is a process of its own, a
fork, so that it need not load the libraries anew. It is killed at a random moment: before it has begun, some steps on,
or while a checkpoint is half-written. Then every checkpoint has to load, and the next run goes on from the newest.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_sparsegrad import GradientTransform, SparseGradModule
from lightning_sparsegrad.main import main
from tests.resume.runs import Sensitive, checkpoints, shuffled

STEPS = 40


class Killed(Sensitive, SparseGradModule):
    def __init__(self, gradient_transform: GradientTransform) -> None:
        super().__init__(gradient_transform=gradient_transform)


class Shuffled(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return shuffled()

    val_dataloader = train_dataloader


def arguments(folder: Path, checkpoint: Path | None) -> list[str]:
    """Return what a user would type; every step leaves a checkpoint."""
    keeping = {"dirpath": str(folder), "filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}
    callbacks = [{"class_path": "ModelCheckpoint", "init_args": keeping}]
    trainer = {
        "accelerator": "cpu",
        "logger": "false",
        "enable_progress_bar": "false",
        "enable_model_summary": "false",
        "accumulate_grad_batches": "2",
        "val_check_interval": "3",
        "max_epochs": str(STEPS // 4),
        "default_root_dir": str(folder.parent),
        "callbacks": json.dumps(callbacks),
    }
    transforms = {"mask": {"class_path": "GradDrop", "init_args": {"rate": 0.5}}}
    transforms["clip"] = {"class_path": "ComponentNormClip", "init_args": {"max_norm": 0.02}}
    transform = {"class_path": "Chain", "init_args": {"transforms": transforms}}
    return [
        *("fit", "--seed_everything=0", f"--model={__name__}.Killed", f"--data={__name__}.Shuffled"),
        f"--model.gradient_transform={json.dumps(transform)}",
        *(f"--trainer.{name}={value}" for name, value in trainer.items()),
        *([f"--ckpt_path={checkpoint}"] if checkpoint else []),
    ]


def start(folder: Path) -> int:
    """Start a run from the newest checkpoint; return its process."""
    newest = list(checkpoints(folder))[-1:]
    process = os.fork()
    if process:
        return process
    try:
        with (folder.parent / "output.txt").open("w") as output, redirect_stdout(output), redirect_stderr(output):
            try:
                main(arguments(folder, newest[0] if newest else None))
            except BaseException:
                traceback.print_exc()
                raise
    except BaseException:
        os._exit(1)
    os._exit(0)


def ended(process: int) -> bool:
    """Return whether a process has ended by itself; raise if it failed."""
    found, status = os.waitpid(process, os.WNOHANG)
    if found and status:
        raise RuntimeError("a run failed, see output.txt")
    return bool(found)


def await_moment(process: int, folder: Path, draw: random.Random) -> bool:
    """Wait until a process is to be killed; return whether it has ended before."""
    kind, steps = draw.choice(["at once", "between", "writing", "writing"]), draw.randint(1, 4)
    before, begun, delay = len(list(folder.glob("*.ckpt"))), time.monotonic(), draw.random()
    while not ended(process):
        if kind == "at once" and time.monotonic() - begun > delay:
            return False
        if kind != "at once" and len(list(folder.glob("*.ckpt"))) >= before + steps:
            if kind == "between":
                time.sleep(0.02 * delay)
                return ended(process)
            if any(folder.glob(".*.part")):
                return False
    return True


def run(folder: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Train to the end, killed up to so many times; return what happened."""
    folder.mkdir(parents=True)
    killed = halves = loaded = 0
    while True:
        process = start(folder)
        if killed == kills:
            os.waitpid(process, 0)
            break
        if await_moment(process, folder, draw):
            break
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        killed += 1
        halves += any(folder.glob(".*.part"))
        for path in folder.glob("*.ckpt"):
            torch.load(path, weights_only=True)
            loaded += 1
    return {"kills": killed, "while writing": halves, "loaded": loaded, "steps": len(list(folder.glob("*.ckpt")))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    root, wanted, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    results = [run(root / "whole" / "checkpoints", 0, random.Random(seed))]  # noqa: S311  # moments, no secrets
    while (done := sum(result["kills"] for result in results)) < wanted:
        name = f"killed {len(results)}"
        results.append(run(root / name / "checkpoints", wanted - done, random.Random(f"{seed} {name}")))  # noqa: S311
    print(json.dumps(results))  # noqa: T201
