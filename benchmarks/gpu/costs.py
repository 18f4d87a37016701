"""The cost of every strategy in a training step: time, host time, launches and memory, with common code beside it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.arms import CHANGE, PLAIN, STEP, Task, engine_arm, loop_arm
from benchmarks.baselines import clip_as_authors_, clip_each_, drop_by_bernoulli_
from benchmarks.gpu.journal import Result
from benchmarks.gpu.shapes import XLM_R, Shape, build
from benchmarks.measure import Arm, Clock, interleave
from benchmarks.models import Thresholds, find_thresholds, gradients_of, run_backward
from benchmarks.peak import peak_allocated
from benchmarks.peers import find_peers
from benchmarks.ratios import Summary, divide
from lightning_sparsegrad import (
    AdaptiveGradientClip,
    AutoClip,
    Chain,
    ComponentNormClip,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    Identity,
    LayerGradDrop,
    SparseMask,
    ValueClip,
)

RATE = 0.5
FLOOR = "floor: read and write every gradient"
READ = "reading all gradients once"
CHAIN = "Chain of GradDrop and ComponentNormClip"
AT_MOST = 1.03  # of a plain step of XLM-R Large, for a mask and a clip
_MILLI = 1e3


def make_strategies(thresholds: Thresholds) -> dict[str, GradientTransform]:
    """Return the strategies by name, those of the target first."""
    mask, clip = partial(GradDrop, RATE), ComponentNormClip(thresholds.all)
    return {
        "Identity": Identity(),
        "GradDrop": mask(fused=True),
        "ComponentNormClip, all clipped": clip,
        CHAIN: Chain([mask(fused=True), clip]),
        "ComponentNormClip, few clipped": ComponentNormClip(thresholds.few),
        "GlobalNormClip": GlobalNormClip(thresholds.tenth),
        "ValueClip": ValueClip(thresholds.value),
        "GradDrop, eager": mask(fused=False),
        "GradDrop, rows": mask(granularity="row"),
        "GradDrop, tensors": mask(granularity="tensor"),
        "LayerGradDrop": LayerGradDrop(RATE),
        "AutoClip": AutoClip(50.0),
        "AdaptiveGradientClip": AdaptiveGradientClip(0.01),
        "SparseMask, 1% of entries": SparseMask(0.01, score="random", exclude_head=False),
    }


def make_arms(task: Task, thresholds: Thresholds) -> Iterator[Arm]:
    """Yield a plain step, every strategy, torch's own clip, naive forms and peers."""
    model = task.model
    parameters = list(model.parameters())
    gradients: Callable[[], list[torch.Tensor]] = partial(gradients_of, model)
    yield loop_arm(task, PLAIN, "torch", None)
    yield loop_arm(task, FLOOR, "torch", lambda: torch._foreach_mul_(gradients(), 1.0))
    yield loop_arm(task, READ, "torch", lambda: [parameter.grad for parameter in parameters])
    for name, transform in make_strategies(thresholds).items():
        yield engine_arm(task, name, transform)
    for foreach in (True, False):
        clip_ = partial(nn.utils.clip_grad_norm_, parameters, thresholds.tenth, foreach=foreach)
        yield loop_arm(task, f"torch clip_grad_norm_, foreach={foreach}", "torch", clip_)
    yield loop_arm(task, "naive: bernoulli per tensor", "naive", lambda: drop_by_bernoulli_(gradients(), RATE))
    yield loop_arm(task, "naive: clip_grad_norm_ per tensor", "naive", lambda: clip_each_(parameters, thresholds.all))
    yield loop_arm(task, "naive: CGNC authors' loop", "naive", lambda: clip_as_authors_(model, thresholds.all))
    for name, peer in find_peers().items():
        if peer is not None:
            yield loop_arm(task, f"peer: {name}", "peer", partial(peer, parameters))


def measure_costs(
    shape: Shape, precision: str, device: torch.device, *, quick: bool, repeats: int = 15
) -> Iterator[Result]:
    """Yield a row for each arm: times in ms, medians of interleaved repeats.

    `step` and `change` are times of the device, `host` what the host needs to submit the change; `launches` are kernels
    (on a CPU, operators), `peak` is memory beyond that of a plain step.
    """
    model, batch = build(shape, precision, device, quick=quick)
    task = Task.of(model, batch)
    run_backward(model, batch)
    arms = list(make_arms(task, find_thresholds([gradient.float() for gradient in gradients_of(model)])))
    repeats, warmups = (1, 0) if quick else (repeats, 3)
    samples = interleave(arms, repeats=repeats, device=device, warmups=warmups)
    by_host = interleave(arms, repeats=repeats, device=device, warmups=0, by_host=True)
    plain = samples[PLAIN][STEP]
    plain_peak = _peak(arms[0], device)
    section = f"Cost: {shape.name}, {precision}, {_count(model)} parameters in {len(gradients_of(model))} tensors"
    for arm in arms:
        at_most = AT_MOST if arm.name == CHAIN and shape is XLM_R and not quick else None
        ratio = divide(arm.name, samples[arm.name][STEP], plain, at_most=at_most)
        row = {
            "step [ms]": _median(samples[arm.name][STEP]),
            "/ plain": ratio.summary.value,
            "quartiles": f"{ratio.summary.lower:.3f}-{ratio.summary.upper:.3f}",
        }
        if CHANGE in samples[arm.name]:
            row |= {
                "change [ms]": _median(samples[arm.name][CHANGE]),
                "host [ms]": _median(by_host[arm.name][CHANGE]),
                "launches": count_launches(arm, arms[0], device),
                "peak [MB]": (_peak(arm, device) - plain_peak) / 1e6,
            }
        yield Result(section, arm.name, row | ({"verdict": ratio.verdict} if ratio.verdict else {}))


def count_launches(arm: Arm, plain: Arm, device: torch.device) -> int:
    """Return how many kernels, or operators on a CPU, an arm launches beyond a plain step."""
    _launches(plain, device)  # the first profile of a process may lose events
    return _launches(arm, device) - _launches(plain, device)


def _launches(arm: Arm, device: torch.device) -> int:
    on_device = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities) as recorded:
        _run(arm, device)
    wanted = "CUDA" if on_device else "CPU"
    return sum(event.device_type.name == wanted and not event.cpu_parent for event in recorded.events() or ())


def _peak(arm: Arm, device: torch.device) -> int:
    return peak_allocated(lambda: _run(arm, device), device)


def _run(arm: Arm, device: torch.device) -> None:
    clock = Clock(device)
    arm.run(clock)
    clock.seconds()


def _median(seconds: Sequence[float]) -> float:
    return _MILLI * Summary.of(seconds).value


def _count(model: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.0f} million"
