"""The time of the kernels on the gradients of a MiniLM-sized encoder, against the floor and naive implementations.

The floor is `torch._foreach_mul_` by 1: reading and writing every gradient once. `dense` gradients are normal random
numbers in every tensor; `real` ones come from a backward pass, whose word-embedding gradient is mostly rows of zeros.
Every run starts from the same gradients, copied back outside the timing.

`few clipped` clips every tenth tensor by index, independent of its size. `largest norms` clips the tenth of the tensors
with the largest norms, among them the word embeddings, which hold more than half of all entries.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.baselines import clip_as_authors_, clip_each_, drop_by_bernoulli_
from benchmarks.compiling import compile_seconds
from benchmarks.machine import describe_machine
from benchmarks.measure import Arm, Clock, Samples, interleave
from benchmarks.models import MINILM, SMALL, build_model, find_thresholds, gradients_of, make_batch, run_backward
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.plots import draw_bars
from benchmarks.ratios import Ratio, Summary, divide
from benchmarks.report import Report
from lightning_sparsegrad.functional import clip_components_, derive_key, mask_entries_, mask_rows_, select_largest

RATE = 0.5
TIME = "time"

FLOOR = "floor: read and write"
TORCH_CLIP = "torch clip_grad_norm_"
FUSED = "mask entries, fused"
EAGER = "mask entries, eager"
ROWS = "mask rows"
SELECT = "select the largest 1% of entries, once per run"
CLIP_ALL = "clip components, all clipped"
CLIP_FEW = "clip components, few clipped"
CLIP_TENTH = "clip components, largest norms"
STATISTICS = "clip components, all clipped, norms read"
STATISTICS_FEW = "clip components, few clipped, norms read"
BERNOULLI = "naive: bernoulli per tensor"
AUTHORS = "naive: CGNC authors' loop"
CLIP_EACH = "naive: clip_grad_norm_ per tensor"


def make_arms(model: nn.Module, saved: Sequence[Tensor], *, fused: bool) -> list[Arm]:
    """Return the arms on one set of gradients.

    Args:
        model: The model with the gradients.
        saved: Their values before every run.
        fused: Whether to include the compiled mask.
    """
    gradients, parameters = gradients_of(model), list(model.parameters())
    thresholds = find_thresholds(list(saved))
    keys = [derive_key("benchmark", index) for index in range(len(gradients))]
    entries = sum(gradient.numel() for gradient in gradients)
    rates, ones = [RATE] * len(gradients), [1] * len(gradients)
    clip_ = partial(clip_components_, gradients, ones)
    all_clipped, tenth_clipped = [thresholds.all] * len(ones), [thresholds.tenth] * len(ones)
    norms = torch.stack(torch._foreach_norm(list(saved))).tolist()
    few_clipped = [norm / 2 if index % 10 == 5 else 2 * norm + 1e-3 for index, norm in enumerate(norms)]

    def clip_and_read_(thresholds: list[float]) -> None:
        norms, factors = clip_(thresholds)
        _ = norms.tolist(), (norms * factors).tolist(), (factors < 1).tolist()

    kernels: list[tuple[str, str, Callable[[], object]]] = [
        (FLOOR, "torch", lambda: torch._foreach_mul_(gradients, 1.0)),
        (TORCH_CLIP, "torch", lambda: nn.utils.clip_grad_norm_(parameters, thresholds.tenth)),
        (EAGER, "ours", lambda: mask_entries_(gradients, keys, rates)),
        (ROWS, "ours", lambda: mask_rows_(gradients, keys, rates)),
        (SELECT, "ours", lambda: select_largest(gradients, entries // 100)),
        (CLIP_ALL, "ours", lambda: clip_(all_clipped)),
        (CLIP_FEW, "ours", lambda: clip_(few_clipped)),
        (CLIP_TENTH, "ours", lambda: clip_(tenth_clipped)),
        (STATISTICS, "ours", lambda: clip_and_read_(all_clipped)),
        (STATISTICS_FEW, "ours", lambda: clip_and_read_(few_clipped)),
        (BERNOULLI, "naive", lambda: drop_by_bernoulli_(gradients, RATE)),
        (AUTHORS, "naive", lambda: clip_as_authors_(model, thresholds.all)),
        (CLIP_EACH, "naive", lambda: clip_each_(parameters, thresholds.all)),
    ]
    if fused:
        kernels.insert(2, (FUSED, "ours", lambda: mask_entries_(gradients, keys, rates, fused=True)))

    def run(kernel_: Callable[[], object], clock: Clock) -> None:
        with torch.no_grad():
            torch._foreach_copy_(gradients, list(saved))
            with clock.section(TIME):
                kernel_()

    return [Arm(name, group, partial(run, kernel_)) for name, group, kernel_ in kernels]


def measure_kernels(options: Options) -> Report:
    """Run the benchmark."""
    size = SMALL if options.quick else MINILM
    model = build_model(size, options.device)
    run_backward(model, make_batch(size, options.device))
    real = [gradient.clone() for gradient in gradients_of(model)]
    generator = torch.Generator(options.device).manual_seed(0)
    dense = [torch.empty_like(gradient).normal_(generator=generator) for gradient in real]
    repeats = options.rounds(full=30, quick=5)
    settings = {"size": vars(size), "repeats": repeats, "rate": RATE}
    report = Report("kernels", describe_machine(options.device), settings)
    report.settings["parameters"] = sum(gradient.numel() for gradient in real)
    if not options.quick:
        seconds = compile_seconds(options.device)
        report.settings["compile seconds"] = seconds
        report.notes.append(f"{FUSED}: {seconds:.0f} s to compile once, with an empty cache; not included in its time")

    for kind, saved in (("dense", dense), ("real", real)):
        arms = make_arms(model, saved, fused=not options.quick)
        samples = interleave(arms, repeats=repeats, device=options.device, warmups=2)
        for arm in arms:
            times = Summary.of(1e3 * second for second in samples[arm.name][TIME])
            report.add(arm.name, arm.group, f"{kind} [ms]", times)
        report.ratios += _ratios(kind, samples)
    return report


def _ratios(kind: str, samples: Samples) -> list[Ratio]:
    targets: list[tuple[str, str, float | None, float | None]] = [
        (FUSED, FLOOR, 3.0 if kind == "dense" else None, 2.5 if kind == "dense" else None),
        (EAGER, FLOOR, None, None),
        (EAGER, BERNOULLI, 1 / 8, None),
        (CLIP_ALL, TORCH_CLIP, 0.65, None),
        (CLIP_FEW, TORCH_CLIP, 0.45, None),
        (CLIP_TENTH, TORCH_CLIP, None, None),
        (STATISTICS, AUTHORS, 1 / 8, None),
        (STATISTICS_FEW, AUTHORS, 1 / 8, None),
        (CLIP_ALL, CLIP_EACH, None, None),
    ]
    return [
        divide(f"{kind}: {above} / {below}", samples[above][TIME], samples[below][TIME], at_most=at_most, aim=aim)
        for above, below, at_most, aim in targets
        if above in samples
    ]


def run(options: Options) -> None:
    """Run the benchmark and write its results."""
    publish(measure_kernels(options), options, draw_bars)


if __name__ == "__main__":
    run(parse_options(__doc__))
