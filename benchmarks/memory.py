"""The extra peak memory of every strategy, which `apply_` allocates beyond the gradients.

It is counted from torch's own allocations, see `peak`, not from the size of the process. This is exact, while the
resident size depends on when the system adds and removes pages. To check for memory that torch does not count, the
resident size is also measured on Linux, in a fresh process per strategy, see `resident`. It is accurate to about a
megabyte.
"""

from collections.abc import Callable

from torch import nn

from benchmarks.machine import describe_machine
from benchmarks.models import MINILM, SMALL, make_case, put_gradients
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.peak import measure_apply, peak_allocated
from benchmarks.plots import draw_bars
from benchmarks.ratios import Ratio, Summary
from benchmarks.report import Report, Row
from benchmarks.resident import can_measure, resident_bytes
from benchmarks.strategies import make_strategies

MEGABYTE = 1e6
SHARE = 0.02
TORCH_CLIP = "torch clip_grad_norm_"


def measure_memory(options: Options) -> Report:
    """Run the benchmark."""
    size, device = SMALL if options.quick else MINILM, options.device
    model, thresholds = make_case(size, device)
    sizes = [parameter.numel() * parameter.element_size() for parameter in model.parameters()]
    gradients, largest = sum(sizes), max(sizes)
    report = Report("memory", describe_machine(device), {"size": vars(size)})
    report.settings |= {"gradient bytes": gradients, "largest tensor bytes": largest}
    resident = not options.quick and can_measure(device)

    def measure(call: Callable[[], object]) -> int:
        return peak_allocated(call, device)

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), thresholds.tenth)

    put_gradients(model, device)
    report.rows.append(Row(TORCH_CLIP, "torch", _values(measure(clip), None, gradients, largest)))
    for name, transform in make_strategies(thresholds, fused=not options.quick).items():
        extra = measure_apply(model, transform, device, measure)
        seen = resident_bytes(name) if resident else None
        report.rows.append(Row(name, "ours", _values(extra, seen, gradients, largest)))
        report.ratios.append(held_to(name, extra, gradients, largest))
    report.notes.append(f"gradients: {gradients / MEGABYTE:.1f} MB, the largest {largest / MEGABYTE:.1f} MB")
    if not resident:
        report.notes.append("resident size: left out at --quick, on an accelerator, and on systems other than Linux")
    return report


def held_to(name: str, extra: int, gradients: int, largest: int) -> Ratio:
    """Compare the extra bytes with a share of all gradients, or with the largest gradient if that is more."""
    at_most = max(SHARE, largest / gradients)
    return Ratio(
        f"extra peak memory of {name} / gradients", Summary.of([extra / gradients]), at_most=at_most, aim=SHARE
    )


def _values(extra: int, seen: int | None, gradients: int, largest: int) -> dict[str, Summary]:
    values = {
        "extra peak [MB]": Summary.of([extra / MEGABYTE]),
        "share of gradients [%]": Summary.of([100 * extra / gradients]),
        "share of largest tensor [%]": Summary.of([100 * extra / largest]),
    }
    return values if seen is None else values | {"resident [MB]": Summary.of([seen / MEGABYTE])}


def run(options: Options) -> None:
    """Run the benchmark and write its results."""
    publish(measure_memory(options), options, draw_bars)


if __name__ == "__main__":
    run(parse_options(__doc__))
