"""One bad batch under a Trainer: each policy, through both doors."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.amp import GradScaler

from lightning_sparsegrad import ConfigurationError, GradDrop
from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.loops._divergence import DivergenceWarning
from tests.cases import cases

from .tasks import (
    DOORS,
    STRATEGIES,
    Batch,
    Regression,
    assert_same_weights,
    door_of,
    loader,
    plain_loop,
    through,
    trainer,
    weights,
    windows,
)
from .test_precision import half

pytestmark = pytest.mark.parametrize("door", DOORS)

CLIPPED = STRATEGIES["mask and clip"]
BAD = 2


class Poisoned(Regression):
    """One micro-batch has a loss that is undefined."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.loss(batch) * (torch.nan if batch_idx == BAD else 1)


def fit(door: str, policy: NonFinite, **arguments: Any) -> Trainer:
    task, callbacks = through(door, CLIPPED, Poisoned, nonfinite=policy)
    run = trainer(**{**arguments, "callbacks": [*callbacks, *arguments.get("callbacks", [])]})
    run.fit(task, loader())
    return run


@cases("accumulate", [1, 3])
def test_a_bad_window_is_skipped_and_poisons_nothing(door: str, accumulate: int) -> None:
    run = fit(door, "skip", accumulate_grad_batches=accumulate, log_every_n_steps=1)
    assert run.callback_metrics["gradient/nonfinite"] == 1
    # the window's gradients are none; the masks of the others are those of their steps
    task = Regression()
    optimizer = task.configure_optimizers()
    for step, window in enumerate(windows(accumulate)):
        if step != BAD // accumulate:
            plain_loop(task, CLIPPED, [window], first_step=step, optimizer=optimizer)
    assert_same_weights(weights(run), weights(task))


def test_a_bad_window_propagates_by_default(door: str) -> None:
    with pytest.warns(
        DivergenceWarning, match=r"^The fit ended with weights that are not finite: `network\.blocks\.0\."
    ):
        run = fit(door, "propagate")
    assert not any(weight.isfinite().all() for weight in weights(run).values())
    assert "gradient/nonfinite" not in run.callback_metrics


def test_a_bad_window_ends_the_fit_before_the_weights_change(door: str) -> None:
    task, callbacks = through(door, CLIPPED, Poisoned, nonfinite="raise")
    run = trainer(callbacks=callbacks)
    with pytest.raises(FloatingPointError, match=r"of `network.blocks.0.0.weight`, at step 2"):
        run.fit(task, loader())
    assert_same_weights(weights(task), plain_loop(Regression(), CLIPPED, windows(1)[:BAD]))
    assert door_of(run).gradient_engine.current is None


class Scales(Callback):
    def __init__(self, scaler: GradScaler) -> None:
        self.scaler, self.scales = scaler, list[float]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.scales.append(self.scaler.get_scale())


@cases("policy", ["propagate", "skip", "raise"])
def test_a_gradient_scaler_skips_a_bad_window_whatever_the_policy(door: str, policy: NonFinite) -> None:
    scaler = GradScaler("cpu", init_scale=256.0)
    watched = Scales(scaler)
    run = fit(door, policy, callbacks=[watched], **half(scaler))
    assert watched.scales == [256.0] * BAD + [128.0] * (7 - BAD)
    assert all(weight.isfinite().all() for weight in weights(run).values())


def test_an_unknown_policy_is_refused(door: str) -> None:
    with pytest.raises(ConfigurationError, match="Parameter `nonfinite` should be one of"):
        through(door, GradDrop(0.5), nonfinite="ignore")
