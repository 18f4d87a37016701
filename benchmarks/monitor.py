"""The cost of measuring every component, as `GradientMonitor` does every 20 steps.

Here a meter measures in every step; the time that it adds to the change of the gradient is divided by 20 and by a plain
step. The gradients are those of a MiniLM-sized encoder, in which word embeddings are half of all parameters.
"""

from benchmarks.arms import CHANGE, PLAIN, STEP, Task, engine_arm, loop_arm
from benchmarks.machine import describe_machine
from benchmarks.measure import interleave
from benchmarks.models import MINILM, SMALL, build_model, find_thresholds, gradients_of, make_batch, run_backward
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.plots import draw_bars
from benchmarks.ratios import Summary, divide
from benchmarks.report import Report, Row
from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientTransform, Identity

EVERY = 20  # steps
METERED = ", metered"


def measure_monitor(options: Options) -> Report:
    """Run the benchmark."""
    size = SMALL if options.quick else MINILM
    model = build_model(size, options.device)
    task = Task.of(model, make_batch(size, options.device))
    run_backward(model, task.batch)
    clip = ComponentNormClip(find_thresholds(gradients_of(model)).all)
    transforms: dict[str, GradientTransform] = {
        "Identity": Identity(),
        "ComponentNormClip": clip,
        "GradDrop, then ComponentNormClip": Chain([GradDrop(0.5, fused=False), clip]),
    }
    arms = [loop_arm(task, PLAIN, "torch", None)]
    for name, transform in transforms.items():
        arms += [engine_arm(task, name, transform), engine_arm(task, name + METERED, transform, metered=True)]
    repeats = options.rounds(full=25, quick=3)
    samples = interleave(arms, repeats=repeats, device=options.device, warmups=2)
    report = Report("monitor", describe_machine(options.device), {"size": vars(size), "repeats": repeats})
    report.rows = [
        Row(arm.name, arm.group, {"change [ms]": Summary.of([1e3 * s for s in samples[arm.name][CHANGE]])})
        for arm in arms
        if arm.name != PLAIN
    ]
    plain = samples[PLAIN][STEP]
    for name in transforms:
        pairs = zip(samples[name + METERED][CHANGE], samples[name][CHANGE], strict=True)
        added = [(metered - alone) / EVERY for metered, alone in pairs]
        report.ratios.append(divide(f"a look every {EVERY} steps, {name} / a plain step", added, plain, at_most=0.02))
    return report


def run(options: Options) -> None:
    """Run the benchmark and write its results."""
    publish(measure_monitor(options), options, draw_bars)


if __name__ == "__main__":
    run(parse_options(__doc__))
