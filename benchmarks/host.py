"""The time that the host takes for a window of an encoder of 400 small tensors, where kernels take next to nothing.

On an accelerator this time is hidden only while the device is still busy with the backward pass. The unit is reading
the gradients of all parameters once after a backward pass, which no program can avoid. The encoder has the tensors of
XLM-R Large, narrow ones.
"""

from collections.abc import Iterator
from itertools import count

from torch import nn

from benchmarks.machine import describe_machine
from benchmarks.measure import Arm, Clock, interleave
from benchmarks.models import Batch, Size, build_model, find_thresholds, gradients_of, make_batch, run_backward
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.plots import draw_bars
from benchmarks.ratios import Summary, divide
from benchmarks.report import Report
from benchmarks.still import Still
from benchmarks.strategies import CLIP_ALL, EAGER, FUSED, ROWS, make_strategies
from lightning_sparsegrad import GradientEngine, GradientTransform, Identity

NARROW = Size(hidden=32, layers=24, heads=4, intermediate=64, vocabulary=64, examples=2, tokens=8)
IDENTITY = "Identity"
READ = "reading all gradients once"
OPEN = "open"
APPLY = "apply_"
STEPS = 1000
TARGETS = {IDENTITY: 3.0, CLIP_ALL: 10.0, EAGER: 20.0, FUSED: 20.0, ROWS: 20.0}


class Window:
    """One window of an engine, in which the host's time to open it and to apply the strategy is taken.

    Args:
        model: The model.
        batch: Its batch.
        engine: The engine.
    """

    def __init__(self, model: nn.Module, batch: Batch, engine: GradientEngine) -> None:
        self._model, self._batch, self._engine = model, batch, engine
        self._steps, self._still = count(), Still(engine)

    def __call__(self, clock: Clock) -> None:
        """Run the window."""
        self._model.zero_grad()
        with clock.section(OPEN):
            self._engine.open(next(self._steps) % STEPS, epoch=0)
        run_backward(self._model, self._batch)
        with clock.section(APPLY):
            self._engine.apply_()
        self._engine.abandon()
        if self._engine.acts_on_steps:
            self._still.step()


def make_arms(model: nn.Module, batch: Batch, strategies: dict[str, GradientTransform]) -> Iterator[Arm]:
    """Yield the arm that reads all gradients, and one for each strategy."""
    parameters = list(model.parameters())

    def read(clock: Clock) -> None:
        model.zero_grad()
        run_backward(model, batch)
        with clock.section(APPLY):
            _ = [parameter.grad for parameter in parameters]

    yield Arm(READ, "torch", read)
    for name, transform in strategies.items():
        engine = GradientEngine(model, transform, total_steps=STEPS)
        yield Arm(name, "ours", Window(model, batch, engine))


def measure_host(options: Options) -> Report:
    """Run the benchmark."""
    model = build_model(NARROW, options.device)
    batch = make_batch(NARROW, options.device)
    run_backward(model, batch)
    strategies = {IDENTITY: Identity()} | make_strategies(find_thresholds(gradients_of(model)), fused=not options.quick)
    arms = list(make_arms(model, batch, strategies))
    repeats = options.rounds(full=40, quick=2)
    samples = interleave(arms, repeats=repeats, device=options.device, warmups=3, by_host=True)
    settings = {"size": vars(NARROW), "repeats": repeats, "tensors": len(list(model.parameters()))}
    report = Report("host", describe_machine(options.device), settings)
    for arm in arms:
        for section, seconds in samples[arm.name].items():
            report.add(arm.name, arm.group, f"{section} [ms]", Summary.of(1e3 * second for second in seconds))
    unit = samples[READ][APPLY]
    report.ratios = [
        divide(f"{name} / {READ}", samples[name][APPLY], unit, at_most=TARGETS.get(name)) for name in strategies
    ]
    return report


def run(options: Options) -> None:
    """Run the benchmark and write its results."""
    publish(measure_host(options), options, draw_bars)


if __name__ == "__main__":
    run(parse_options(__doc__))
