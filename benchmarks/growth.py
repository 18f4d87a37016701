"""The time of `apply_` by number of parameters, in tensors of a million entries, and by number of tensors.

Small tensors all have 1,000 entries, or all have different numbers of entries. Every run starts from the same
gradients, copied back outside the timing.
"""

from collections.abc import Sequence
from functools import partial
from math import log
from statistics import linear_regression

import torch
from torch import Tensor, nn

from benchmarks.lines import draw_growth
from benchmarks.machine import describe_machine
from benchmarks.measure import Arm, Clock, interleave
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.ratios import Ratio, Summary
from benchmarks.report import Report, Row
from benchmarks.strategies import EAGER, FUSED
from lightning_sparsegrad import ComponentNormClip, GradDrop, GradientEngine, GradientTransform

ENTRIES = 1 << 20
RATE = 0.5
TIME = "time"
PER_PARAMETER = "ns per parameter"
PER_TENSOR = "us per tensor"

CLIP = "ComponentNormClip"
TORCH_CLIP = "torch clip_grad_norm_"

LARGE = (1, 3, 10, 30, 94, 286)  # tensors of a million entries: 1M to 300M parameters
COUNTS = (10, 50, 220, 1050, 5000, 10000)
CACHE = 8_000_000  # number of parameters above which gradients do not fit into a cache; growth is fitted from there on


def make_parameters(sizes: Sequence[int], device: torch.device) -> list[nn.Parameter]:
    """Return parameters of the given sizes with gradients; the weights are never used and take no memory."""
    parameters = [nn.Parameter(torch.empty(size, device=device)) for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    return parameters


def make_arms(parameters: Sequence[nn.Parameter], *, fused: bool) -> list[Arm]:
    """Return arms of the strategies on the gradients of parameters, with all tensors clipped."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    generator = torch.Generator(gradients[0].device).manual_seed(0)
    source = torch.empty(max(map(Tensor.numel, gradients)), device=gradients[0].device).normal_(generator=generator)
    saved = [source[: gradient.numel()] for gradient in gradients]
    strategies: dict[str, GradientTransform] = {FUSED: GradDrop(RATE, fused=True)} if fused else {}
    strategies |= {EAGER: GradDrop(RATE, fused=False), CLIP: ComponentNormClip(1e-3)}

    def clip_as_torch_(clock: Clock) -> None:
        with torch.no_grad():
            torch._foreach_copy_(gradients, saved)
        with clock.section(TIME):
            nn.utils.clip_grad_norm_(parameters, 1e-3)

    def run(engine: GradientEngine, clock: Clock) -> None:
        with torch.no_grad():
            torch._foreach_copy_(gradients, saved)
        with engine.window(0), clock.section(TIME):
            engine.apply_()

    model = nn.ParameterList(parameters)
    engines = {name: GradientEngine(model, transform) for name, transform in strategies.items()}
    arms = [Arm(name, "ours", partial(run, engine)) for name, engine in engines.items()]
    return [*arms, Arm(TORCH_CLIP, "torch", clip_as_torch_)]


def measure_sizes(sizes: Sequence[int], options: Options, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every strategy on tensors of the given sizes."""
    arms = make_arms(make_parameters(sizes, options.device), fused=not options.quick)
    samples = interleave(arms, repeats=repeats, device=options.device)
    return {name: sections[TIME] for name, sections in samples.items()}


def measure_growth(options: Options) -> Report:
    """Run the benchmark."""
    large = LARGE[:3] if options.quick else LARGE
    counts = COUNTS[:4] if options.quick else COUNTS
    repeats = options.rounds(full=9, quick=3)
    settings = {"repeats": repeats, "rate": RATE, "entries per large tensor": ENTRIES}
    report = Report("growth", describe_machine(options.device), settings)
    series: dict[str, dict[str, list[tuple[int, Summary]]]] = {PER_PARAMETER: {}, PER_TENSOR: {}}

    def add(sizes: Sequence[int], label: str, column: str, count: int, kind: str = "") -> None:
        unit = {PER_PARAMETER: 1e9, PER_TENSOR: 1e6}[column]
        summaries = {
            kernel: Summary.of(unit * second / count for second in seconds)
            for kernel, seconds in measure_sizes(sizes, options, repeats).items()
        }
        report.rows.append(Row(f"{label} [{column}]", "ours", summaries))
        for kernel, summary in summaries.items():
            series[column].setdefault(kernel + kind, []).append((count, summary))

    for number in large:
        parameters = number * ENTRIES
        add([ENTRIES] * number, f"{parameters / 1e6:.0f}M parameters", PER_PARAMETER, parameters)
    for number in counts:
        add([1000] * number, f"{number} tensors of 1,000", PER_TENSOR, number, ", equal sizes")
        differing = [500 + index for index in range(number)]
        add(differing, f"{number} tensors, all sizes differ", PER_TENSOR, number, ", all sizes differ")

    report.settings["series"] = {
        column: {line: [(count, summary.value) for count, summary in points] for line, points in lines.items()}
        for column, lines in series.items()
    }
    report.ratios = [exponent(line, points) for line, points in series[PER_PARAMETER].items()]
    report.ratios += [_per_tensor(line, points) for line, points in series[PER_TENSOR].items()]
    return report


def exponent(line: str, points: Sequence[tuple[int, Summary]]) -> Ratio:
    """Fit time = c * parameters ** e beyond the cache; the target of e is 1, linear growth.

    Args:
        line: The name of the measurement.
        points: Numbers of parameters with nanoseconds per parameter.
    """
    beyond = [point for point in points if point[0] >= CACHE]
    judged = beyond if len(beyond) > 1 else points
    slope = 1 + linear_regression([log(n) for n, _ in judged], [log(s.value) for _, s in judged]).slope
    at_most = None if line == TORCH_CLIP else 1.1
    return Ratio(f"growth of {line}: exponent in parameters", Summary.of([slope]), at_most=at_most)


def _per_tensor(line: str, points: Sequence[tuple[int, Summary]]) -> Ratio:
    count, summary = points[-1]
    at_most = {FUSED: 25.0, EAGER: 25.0, CLIP: 10.0}.get(line.rpartition(", ")[0])
    return Ratio(f"{line}: per tensor, of {count}", summary, at_most=at_most, unit=" us")


def run(options: Options) -> None:
    """Run the benchmark and write its results."""
    publish(measure_growth(options), options, draw_growth)


if __name__ == "__main__":
    run(parse_options(__doc__))
