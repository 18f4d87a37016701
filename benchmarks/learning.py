"""The time of clips that learn their thresholds, against clips whose thresholds are given.

The gradients are those of a MiniLM-sized encoder, copied back before every window, outside the timing. A time is that
of a window without its backward pass: `apply_`, and a step of an optimizer that changes nothing, in which clips learn.
The gradients grow from window to window, so that every component is clipped in each, or stay the same, so that none is.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from math import inf

import torch
from torch import Tensor, nn

from benchmarks.machine import describe_machine
from benchmarks.measure import Arm, Clock, Samples, interleave
from benchmarks.models import MINILM, SMALL, build_model, find_thresholds, gradients_of, make_batch, run_backward
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.plots import draw_bars
from benchmarks.ratios import Ratio, Summary, divide
from benchmarks.report import Report
from benchmarks.still import Still
from lightning_sparsegrad import (
    AdaGC,
    AutoClip,
    ComponentNormClip,
    GlobalNormClip,
    GradientEngine,
    GradientTransform,
    SpikeSkip,
    ZClip,
)

TIME = "time"
GROWTH = {"all clipped": 1.05, "none clipped": 1.0}  # of the gradients, from one window to the next
LOOSE = 1e30

GLOBAL = "GlobalNormClip"
SKIP = "SpikeSkip"
TENSORS = "ComponentNormClip, tensors"
TARGETS = {GLOBAL: 1.15, TENSORS: 1.5}


def make_strategies(max_norm: float) -> dict[str, GradientTransform]:
    """Return the strategies by name.

    Args:
        max_norm: The thresholds that are given; one beyond any norm clips nothing.
    """
    cap = inf if max_norm == LOOSE else max_norm
    return {
        GLOBAL: GlobalNormClip(max_norm),
        "AutoClip": AutoClip(),
        "ZClip": ZClip(warmup_steps=2, max_norm=cap),
        SKIP: SpikeSkip(LOOSE, warmup_steps=2),
        TENSORS: ComponentNormClip(max_norm, components="tensor"),
        "AdaGC, tensors": AdaGC(warmup_steps=1, max_norm=inf),
        "AutoClip, tensors": AutoClip(components="tensor"),
        "ZClip, tensors": ZClip(warmup_steps=2, max_norm=cap, components="tensor"),
    }


def make_arms(model: nn.Module, strategies: Mapping[str, GradientTransform], growth: float) -> list[Arm]:
    """Return an arm for each strategy.

    Args:
        model: The model with the gradients of the first window.
        strategies: The strategies by name.
        growth: Factor of the gradients from one window to the next.
    """
    saved = [gradient.clone() for gradient in gradients_of(model)]
    return [_arm(name, GradientEngine(model, strategy), saved, growth) for name, strategy in strategies.items()]


def _arm(name: str, engine: GradientEngine, saved: Sequence[Tensor], growth: float) -> Arm:
    still, gradients, steps = Still(engine), gradients_of(engine.parameters.model), count()

    def run(clock: Clock) -> None:
        step = next(steps)
        with torch.no_grad():
            torch._foreach_copy_(gradients, list(saved))
            torch._foreach_mul_(gradients, growth**step)
        with engine.window(step), clock.section(TIME):
            engine.apply_()
            still.step()

    return Arm(name, "ours", run)


def measure_learning(options: Options) -> Report:
    """Run the benchmark."""
    size = SMALL if options.quick else MINILM
    model = build_model(size, options.device)
    run_backward(model, make_batch(size, options.device))
    repeats = options.rounds(full=30, quick=5)
    report = Report("learning", describe_machine(options.device), {"size": vars(size), "repeats": repeats})
    for kind, growth in GROWTH.items():
        strategies = make_strategies(find_thresholds(gradients_of(model)).all if growth > 1 else LOOSE)
        arms = make_arms(model, strategies, growth)
        samples = interleave(arms, repeats=repeats, device=options.device, warmups=3)
        for arm in arms:
            times = Summary.of(1e3 * second for second in samples[arm.name][TIME])
            report.add(arm.name, arm.group, f"{kind} [ms]", times)
        report.ratios += _ratios(kind, samples)
    return report


def _ratios(kind: str, samples: Samples) -> list[Ratio]:
    ratios = []
    for name in (name for name in samples if name not in TARGETS):
        given = TENSORS if name.endswith("tensors") else GLOBAL
        at_most = TARGETS[given] if name != SKIP else None
        ratios.append(divide(f"{kind}: {name} / {given}", samples[name][TIME], samples[given][TIME], at_most=at_most))
    return ratios


def run(options: Options) -> None:
    """Run the benchmark and write its results."""
    publish(measure_learning(options), options, draw_bars)


if __name__ == "__main__":
    run(parse_options(__doc__))
