"""The arms of the step benchmark, each of which runs one training step of a shared model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import nn

from benchmarks.baselines import child_tuning_, clip_as_authors_, clip_each_, drop_by_bernoulli_
from benchmarks.measure import Arm, Clock
from benchmarks.models import Batch, Thresholds, gradients_of, run_backward
from benchmarks.peers import find_peers
from benchmarks.still import Still
from benchmarks.strategies import LAYERS, RATE, TENSORS, UNFREEZING, make_strategies
from lightning_sparsegrad import ComponentNormClip, GradientEngine, GradientTransform
from lightning_sparsegrad.engine.gradient_meter import GradientMeter

STEP = "step"
CHANGE = "change"

PLAIN = "plain"
TORCH_CLIP = "torch clip_grad_norm_"
BERNOULLI = "naive: bernoulli per tensor"
CHILD_TUNING = "naive: Child-Tuning-F"
AUTHORS = "naive: CGNC authors' loop"
CLIP_EACH = "naive: clip_grad_norm_ per tensor"
COMPUTED = "LayerGradDrop, nothing skipped"
STATISTICS = "ComponentNormClip, all clipped, with statistics"
STATISTICS_FEW = "ComponentNormClip, few clipped, with statistics"


@dataclass(frozen=True)
class Task:
    """The training task that all arms share.

    The learning rate is 0, which costs a fused AdamW the same time, so that every arm sees the same weights.

    Args:
        model: The model, in training mode.
        batch: The batch of every step.
        optimizer: The optimizer of all parameters of the model.
    """

    model: nn.Module
    batch: Batch
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, model: nn.Module, batch: Batch) -> "Task":
        """Return the task with its optimizer."""
        return cls(model, batch, torch.optim.AdamW(model.parameters(), lr=0.0, fused=True))


def loop_arm(task: Task, name: str, group: str, change_: Callable[[], object] | None) -> Arm:
    """Return the arm of a plain loop that changes the gradient between the backward pass and the optimizer."""

    def run(clock: Clock) -> None:
        with clock.section(STEP):
            task.optimizer.zero_grad()
            run_backward(task.model, task.batch)
            if change_ is not None:
                with clock.section(CHANGE):
                    change_()
            task.optimizer.step()

    return Arm(name, group, run)


def engine_arm(
    task: Task,
    name: str,
    transform: GradientTransform,
    *,
    rounds: int = 1,
    period: int | None = None,
    skip_dropped: bool = True,
    statistics: bool = False,
    metered: bool = False,
) -> Arm:
    """Return the arm of a strategy under the engine; the step number grows, so that draws differ.

    Args:
        task: The training task.
        name: Name of the arm.
        transform: The strategy.
        rounds: Steps in every repeat.
        period: Steps of the whole training, after which the step number restarts at 0.
        skip_dropped: Whether the engine skips work on gradients that the strategy drops.
        statistics: Whether to read the statistics in every step, as the authors' loop reads its own.
        metered: Whether a meter measures every component in every step.
    """
    engine = GradientEngine(task.model, transform, total_steps=period, skip_dropped=skip_dropped)
    if metered:
        engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
    steps, still = count(), Still(engine)  # not the optimizer of the task, whose hooks would run in every other arm

    def run(clock: Clock) -> None:
        step = next(steps)
        with clock.section(STEP):
            task.optimizer.zero_grad()
            with engine.window(step % period if period else step, epoch=0):
                run_backward(task.model, task.batch)
                with clock.section(CHANGE):
                    engine.apply_()
                    if engine.acts_on_steps:
                        still.step()
                    if statistics:
                        _ = {key: value.item() for key, value in engine.statistics.items()}
            task.optimizer.step()

    return Arm(name, "ours", run, rounds)


def make_arms(task: Task, thresholds: Thresholds, *, fused: bool, draws: int) -> tuple[list[Arm], list[str]]:
    """Return all arms of a single step, and the names of the peers that are not installed.

    Args:
        task: The training task.
        thresholds: Norms to clip to.
        fused: Whether to include the compiled mask.
        draws: Steps in every repeat of a strategy whose work depends on its random draws.
    """
    parameters = list(task.model.parameters())
    arms = [
        loop_arm(task, PLAIN, "torch", None),
        loop_arm(task, TORCH_CLIP, "torch", lambda: nn.utils.clip_grad_norm_(parameters, thresholds.tenth)),
    ]
    for name, transform in make_strategies(thresholds, fused=fused).items():
        if name != UNFREEZING:  # its work depends on the progress of training: a whole epoch is timed instead
            arms.append(engine_arm(task, name, transform, rounds=draws if name in {LAYERS, TENSORS} else 1))
        if name == LAYERS:
            arms.append(engine_arm(task, COMPUTED, transform, rounds=draws, skip_dropped=False))
    clips = {STATISTICS: thresholds.all, STATISTICS_FEW: thresholds.few}
    for name, max_norm in clips.items():
        clip = ComponentNormClip(max_norm=max_norm, components="tensor")
        arms.append(engine_arm(task, name, clip, statistics=True))
    arms += [
        loop_arm(task, BERNOULLI, "naive", lambda: drop_by_bernoulli_(gradients_of(task.model), RATE)),
        loop_arm(task, CHILD_TUNING, "naive", lambda: child_tuning_(gradients_of(task.model), 1 - RATE)),
        loop_arm(task, AUTHORS, "naive", lambda: clip_as_authors_(task.model, thresholds.all)),
        loop_arm(task, CLIP_EACH, "naive", lambda: clip_each_(parameters, thresholds.all)),
    ]
    missing = []
    for name, peer in find_peers().items():
        if peer is None:
            missing.append(name)
        else:
            arms.append(loop_arm(task, f"peer: {name}", "peer", partial(peer, parameters)))
    return arms, missing
