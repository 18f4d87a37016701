"""The peak memory that a call allocates."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.models import put_gradients
from benchmarks.still import Still
from lightning_sparsegrad import GradientEngine, GradientTransform


def peak_allocated(call: Callable[[], object], device: torch.device) -> int:
    """Return the bytes of tensors at the peak of a call, beyond those that existed before it.

    On CUDA the caching allocator counts them. On the CPU the profiler records every allocation and release by torch's
    allocator, including those of compiled kernels and temporaries inside operators. The peak of the running sum is
    exact and reproducible.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    total = peak = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak


def measure_apply(
    model: nn.Module, transform: GradientTransform, device: torch.device, measure: Callable[[Callable[[], None]], int]
) -> int:
    """Return the measurement of the third window, after two that fill caches: `apply_`, and what a strategy learns."""
    engine = GradientEngine(model, transform, total_steps=100)
    still, peak = Still(engine), 0

    def apply_and_step() -> None:
        engine.apply_()
        still.step()

    for step in range(3):
        with engine.window(step, epoch=0):
            put_gradients(model, device)
            if step < 2:
                apply_and_step()
            else:
                peak = measure(apply_and_step)
        model.zero_grad()
    return peak
