"""The same strategies under a Trainer, through either door: stopped, and resumed from a checkpoint."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from lightning_sparsegrad import ConfigurationError
from tests.layout import Layout
from tests.lightning.tasks import (
    BATCHES,
    DOORS,
    SEED,
    Batch,
    Network,
    Regression,
    Resumable,
    Weights,
    assert_same_weights,
    plain_loop,
    through,
    trainer,
    weights,
    windows,
)
from tests.soak.chains import draw_chain
from tests.soak.configurations import described
from tests.soak.strategies import Drawn


class Interruption(Exception):  # noqa: N818  # no error
    """The exception that a training step raises."""


class Interrupted(Regression):
    """A task that is stopped at a micro-batch."""

    last: int | None = None
    seen = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if self.seen == self.last:
            raise Interruption
        self.seen += 1
        return super().training_step(batch, batch_idx)


@dataclass(frozen=True)
class Fit:
    """A fit.

    Args:
        drawn: The strategy.
        doors: The doors of the whole fit, the stopped one, and the resumed one.
        precision: The Trainer's; `"16-mixed"` under a gradient scaler.
        accumulate: Micro-batches of a window.
        epochs: Epochs of seven micro-batches.
        saved: Optimizer steps between checkpoints.
        last: Micro-batches before the stop.
        skip: Whether to skip the work on what is dropped.
    """

    drawn: Drawn
    doors: tuple[str, str, str]
    precision: str
    accumulate: int
    epochs: int
    saved: int
    last: int
    skip: bool

    def __str__(self) -> str:
        return (
            f"A fit through {self.doors}, {self.precision}, {self.epochs} epochs in windows of {self.accumulate}, "
            f"saved every {self.saved}, stopped at {self.last}, skip {self.skip}: {described(self.drawn)}"
        )

    @property
    def steps(self) -> int:
        return self.epochs * -(-BATCHES // self.accumulate)

    def trainer(self, **arguments: Any) -> Trainer:
        precision: dict[str, Any] = {"precision": self.precision}
        if self.precision == "16-mixed":
            precision = {"plugins": [MixedPrecision("16-mixed", "cpu", self.scaler())]}
        return trainer(max_epochs=self.epochs, accumulate_grad_batches=self.accumulate, **precision, **arguments)

    @staticmethod
    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)

    def run(
        self, door: int, *, callbacks: tuple[Any, ...] = (), last: int | None = None, path: Path | None = None
    ) -> Trainer:
        """Fit a new task; `door` is the index of its door."""
        task, own = through(self.doors[door], deepcopy(self.drawn.transform), Interrupted, skip_dropped=self.skip)
        assert isinstance(task, Interrupted)
        task.last = last
        run = self.trainer(callbacks=[*own, *callbacks], enable_checkpointing=bool(callbacks))
        try:
            run.fit(task, Resumable(), ckpt_path=path)
        except Interruption:
            assert all(parameter.requires_grad for parameter in task.parameters()), "not all is back"
        return run

    def plainly(self) -> Weights:
        """Train as anybody would without a Trainer."""
        casting = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        return plain_loop(
            Regression(),
            self.drawn.transform,
            windows(*[self.accumulate] * self.epochs),
            total_steps=self.steps,
            autocast=lambda: torch.autocast("cpu", casting, enabled=casting is not None),
            scaler=self.scaler() if self.precision == "16-mixed" else None,
        )


def draw_fit(seed: int, index: int) -> Fit:
    """Draw a fit; `seed` and `index` are those of the soak."""
    rng = Random(f"fit {seed} {index}")  # noqa: S311  # nothing here is a secret
    accumulate, epochs = rng.randint(1, 4), rng.randint(1, 3)
    steps = epochs * -(-BATCHES // accumulate)
    first, second, third = (rng.choice(DOORS) for _ in range(3))
    return Fit(
        drawn=draw_chain(
            rng,
            _layout(),
            layers=("network.blocks.0.*", "network.blocks.1.*", "network.blocks.2.*"),
            head=("network.head.*",),
        ),
        doors=(first, second, third),
        precision=rng.choice(["32-true", "bf16-mixed", "16-mixed"]),
        accumulate=accumulate,
        epochs=epochs,
        saved=rng.randint(1, max(1, steps // 2)),
        last=rng.randint(1, epochs * BATCHES),
        skip=rng.random() < 0.7,
    )


def _layout() -> Layout:
    shapes = {f"network.{name}": tuple(parameter.shape) for name, parameter in Network().named_parameters()}
    depths = {name: frozenset({int(name.split(".")[2]) if ".blocks." in name else 3}) for name in shapes}
    return Layout(shapes, depths, head=3, fused={}, embedded=False)


def check_fit(fit: Fit) -> int:
    """Compare a whole fit, a plain loop, and a fit that is stopped and resumed, bit for bit; return its windows."""
    try:
        whole = fit.run(0)
    except ConfigurationError as error:
        if "under loss scaling" not in str(error):
            raise
        with pytest.raises(ConfigurationError, match="under loss scaling"):
            fit.plainly()
        return 0
    assert whole.global_step == fit.steps
    with TemporaryDirectory() as folder:
        every = ModelCheckpoint(folder, every_n_train_steps=fit.saved, save_top_k=-1, filename="{step}")
        stopped = fit.run(1, callbacks=(every,), last=fit.last)
        saved = sorted(Path(folder).glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
        if saved:
            with patch.dict(os.environ, {"PL_GLOBAL_SEED": "99"}):  # the seed of the checkpoint wins
                resumed = fit.run(2, path=saved[-1])
            assert resumed.global_step == fit.steps
            assert_same_weights(weights(resumed), weights(whole))
        else:
            assert stopped.global_step < fit.saved
    assert_same_weights(fit.plainly(), weights(whole))
    return 2 * fit.steps


@contextmanager
def seeded_and_quiet() -> Iterator[None]:
    """Give fits the seed that `seed_everything` would, and leave out what Lightning says about every tiny run."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with patch.dict(os.environ, {"PL_GLOBAL_SEED": str(SEED)}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        yield
    logger.setLevel(level)
