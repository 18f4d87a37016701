"""A fit that is sensitive to any difference, the same fit resumed from a checkpoint, and the results of both."""

import os
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MeanSquaredError

from lightning_sparsegrad import ExactResume, GradientTransform
from tests.lightning.tasks import Batch, Regression, dataset, through, trainer

BATCHES = 7
THOROUGH = bool(os.environ.get("RESUME_ALL"))  # else runs are resumed from some of their checkpoints only


class Rows(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    name, version = "rows", 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))


class Sensitive(Regression):
    """Depends on every state there is: random draws, what was seen, schedules, hooks that run once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dropout = torch.nn.Dropout(0.2)
        self.error, self.val_error, self.by_hand = MeanSquaredError(), MeanSquaredError(), MeanMetric()
        self.seen: list[float] = []

    def loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        outputs = self.network(self.dropout(inputs))
        (self.error if self.training else self.val_error).update(outputs.detach(), targets)
        return torch.nn.functional.mse_loss(outputs, targets)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.seen.append(float(batch[0].sum()))
        loss = self.loss(batch)
        self.by_hand.update(loss.detach())
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=self.trainer.world_size > 1)
        self.log("largest", loss, on_epoch=True, reduce_fx="max")
        self.log("error", self.error, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.log("drawn", torch.rand(()))

    def on_train_epoch_end(self) -> None:
        self.log("by hand", self.by_hand.compute())
        self.by_hand.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), on_step=True, on_epoch=True, sync_dist=self.trainer.world_size > 1)
        self.log("val/error", self.val_error)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        rows = self.trainer.logger.rows if self.trainer.logger else []  # type: ignore[attr-defined]
        checkpoint["until then"] = {"seen": len(self.seen), "rows": len(rows)}

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=0.01, weight_decay=0.1)
        schedulers = [
            {"scheduler": ExponentialLR(optimizer, 0.97), "interval": "step"},
            {"scheduler": ReduceLROnPlateau(optimizer, patience=0, factor=0.7), "monitor": "loss_epoch"},
            {"scheduler": ReduceLROnPlateau(optimizer, patience=0, factor=0.7), "monitor": "val/loss", "strict": False},
        ]
        return [optimizer], schedulers


class Paired(Sensitive):
    """Reads a batch of each of two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return super().training_step([torch.cat(parts) for parts in zip(*batch, strict=True)], batch_idx)


@dataclass
class FitResult:
    """The result of a fit."""

    states: dict[str, Any]
    seen: list[float]
    rows: list[tuple[int | None, dict[str, float]]]
    steps: int


def shuffled(**arguments: Any) -> DataLoader[Any]:
    """Return a loader without a generator, as most users have."""
    return DataLoader(dataset(BATCHES), batch_size=2, shuffle=True, **arguments)


def fit(
    door: str,
    transform: GradientTransform,
    *,
    data: Any = None,
    validation: Any = None,
    callbacks: list[Callback] | None = None,
    path: Path | None = None,
    kind: type[Regression] = Sensitive,
    **arguments: Any,
) -> tuple[Trainer, FitResult]:
    """Fit a new task, from a checkpoint if one is given; return the Trainer and the result."""
    torch.manual_seed((0 if path is None else 99) + int(os.environ.get("RANK", "0")))
    task, door_callbacks = through(door, deepcopy(transform), kind)
    given = callbacks if callbacks is not None else [ExactResume()]
    run = trainer(
        **{
            "logger": Rows(),
            "log_every_n_steps": 1,
            "max_epochs": 3,
            "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in given),
            "callbacks": [*door_callbacks, *given],
            **arguments,
        }
    )
    run.fit(
        task, shuffled() if data is None else data, validation or DataLoader(dataset(2), batch_size=2), ckpt_path=path
    )
    return run, result_of(run)


def result_of(run: Trainer) -> FitResult:
    task: Any = run.lightning_module
    (optimizer,) = run.optimizers
    states = {
        "weights": task.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedulers": [config.scheduler.state_dict() for config in run.lr_scheduler_configs],
        "random": torch.get_rng_state(),
        "metrics": {name: float(value) for name, value in run.callback_metrics.items()},
    }
    rows = run.logger.rows if isinstance(run.logger, Rows) else []
    return FitResult(deepcopy(states), list(task.seen), rows, run.global_step)


def every_step(folder: Path, **arguments: Any) -> list[Callback]:
    """Return callbacks that keep a checkpoint of every optimizer step and every epoch, for an exact resume."""
    step = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    epoch = ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}", **arguments)
    return [step, epoch, ExactResume()]


def assert_same_bits(actual: Any, expected: Any, where: str = "") -> None:
    """Assert that nested states are equal bit for bit."""
    assert type(actual) is type(expected), where
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same_bits(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), where
        for index, value in enumerate(expected):
            assert_same_bits(actual[index], value, f"{where}[{index}]")
    elif isinstance(expected, Tensor):
        assert torch.equal(actual, expected), where
    else:
        assert actual == expected, where


def assert_went_on(resumed: FitResult, whole: FitResult, path: Path) -> None:
    """Assert that a resumed run did bit for bit what the whole run did after a checkpoint."""
    then = torch.load(path, weights_only=True)["until then"]
    assert resumed.seen == whole.seen[then["seen"] :]
    assert resumed.steps == whole.steps
    names = ["weights", "optimizer", "schedulers"]
    if resumed.seen:  # else the whole run was at its end: nothing is done, and neither drawn nor logged
        assert resumed.rows == whole.rows[then["rows"] :]
        names += ["random", "metrics"]
    for name in names:
        assert_same_bits(resumed.states[name], whole.states[name], name)


def checkpoints(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints in the order they were written."""
    yield from sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


def some_checkpoints(folder: Path, count: int) -> list[Path]:
    """Return as many checkpoints, spread over the run; all of them with `RESUME_ALL`."""
    paths = list(checkpoints(folder))
    return paths if THOROUGH else [paths[(2 * each + 1) * len(paths) // (2 * count)] for each in range(count)]


def pairs(cases: Iterable[Any], variants: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return each case with one of the variants, in turn; with all of them with `RESUME_ALL`."""
    if THOROUGH:
        return list(product(cases, variants))
    return list(zip(cases, cycle(variants), strict=False))


def alternating(cases: Iterable[Any], variants: Sequence[Any]) -> list[Any]:
    """Return each case with each variant for `parametrize`; all but one of a case are `long`, in turn."""
    return [
        pytest.param(case, variant, marks=() if index % len(variants) == number else pytest.mark.long)
        for index, case in enumerate(cases)
        for number, variant in enumerate(variants)
    ]
