"""The time of a training step, and of the change of the gradient alone, for every strategy and common alternatives.

A step is forward pass, backward pass, change of the gradient and fused AdamW, on a MiniLM-sized encoder in training
mode. `LayerGradDrop` is averaged over draws and `GradualUnfreezing` over whole epochs, since the work that they skip
differs from step to step.
"""

from collections.abc import Sequence

from benchmarks import arms as names
from benchmarks import strategies
from benchmarks.arms import CHANGE, PLAIN, STEP, Task, engine_arm, loop_arm, make_arms
from benchmarks.machine import describe_machine
from benchmarks.measure import Arm, Samples, interleave
from benchmarks.models import MINILM, SMALL, build_model, find_thresholds, gradients_of, make_batch, run_backward
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.plots import draw_bars
from benchmarks.ratios import Ratio, Summary, divide
from benchmarks.report import Report, Row
from lightning_sparsegrad import GradualUnfreezing

STEP_COLUMN = "step [ms]"
CHANGE_COLUMN = "change alone [ms]"
EPOCH = "GradualUnfreezing, mean of an epoch"
PLAIN_EPOCH = "plain, mean of an epoch"


def measure_step(options: Options) -> Report:
    """Run the benchmark."""
    size = SMALL if options.quick else MINILM
    model = build_model(size, options.device)
    task = Task.of(model, make_batch(size, options.device))
    run_backward(model, task.batch)
    thresholds = find_thresholds(gradients_of(model))
    repeats, draws, steps = options.rounds(full=15, quick=3), 4, 16
    epochs = options.rounds(full=5, quick=2)

    arms, missing = make_arms(task, thresholds, fused=not options.quick, draws=draws)
    samples = interleave(arms, repeats=repeats, device=options.device, warmups=2)
    epoch_arms = [
        loop_arm(task, PLAIN_EPOCH, "torch", None),
        engine_arm(task, EPOCH, GradualUnfreezing(), period=steps),
    ]
    epoch_arms = [Arm(arm.name, arm.group, arm.run, rounds=steps) for arm in epoch_arms]
    epoch_samples = interleave(epoch_arms, repeats=epochs, device=options.device)

    settings = {"size": vars(size), "repeats": repeats, "draws per repeat": draws, "steps per epoch": steps}
    report = Report("step", describe_machine(options.device), settings | {"epochs": epochs})
    report.rows = _rows([*arms, *epoch_arms], samples | epoch_samples)
    report.ratios = [*_ratios(samples), _epoch_ratio(epoch_samples)]
    report.notes = [f"{name}: not installed" for name in missing]
    return report


def _rows(arms: Sequence[Arm], samples: Samples) -> list[Row]:
    columns = {STEP: STEP_COLUMN, CHANGE: CHANGE_COLUMN}
    return [
        Row(
            arm.name,
            arm.group,
            {
                columns[section]: Summary.of([1e3 * second for second in seconds], averaged=arm.rounds > 1)
                for section, seconds in samples[arm.name].items()
            },
        )
        for arm in arms
    ]


def _ratios(samples: Samples) -> list[Ratio]:
    plain, clip = samples[PLAIN][STEP], samples[names.TORCH_CLIP][CHANGE]
    change = {name: sections[CHANGE] for name, sections in samples.items() if CHANGE in sections}
    ratios = []
    bounds = {strategies.FUSED: 0.02, strategies.EAGER: 0.05, strategies.NEW_ROWS: 0.01}
    bounds |= {strategies.ONE_PERCENT: 0.05, strategies.THIRTY_PERCENT: 0.05}
    for name, bound in bounds.items():
        if name in change:
            ratios.append(divide(f"change by {name} / plain step", change[name], plain, at_most=bound))
    for name, at_most in ((strategies.CLIP_ALL, 0.65), (strategies.CLIP_FEW, 0.45), (strategies.CLIP_TENTH, None)):
        ratios.append(divide(f"change by {name} / by {names.TORCH_CLIP}", change[name], clip, at_most=at_most))
    pairs = (
        (strategies.EAGER, names.BERNOULLI, 1 / 8),
        (strategies.EAGER, names.CHILD_TUNING, None),
        (names.STATISTICS, names.AUTHORS, 1 / 8),
        (names.STATISTICS_FEW, names.AUTHORS, 1 / 8),
    )
    for ours, theirs, at_most in pairs:
        ratios.append(divide(f"change by {ours} / by {theirs}", change[ours], change[theirs], at_most=at_most))
    ratios.append(
        divide(
            f"step with {strategies.LAYERS}({strategies.RATE}) / plain step",
            samples[strategies.LAYERS][STEP],
            plain,
            at_most=0.85,
            averaged=True,
        )
    )
    ratios.append(
        divide(f"step with {names.COMPUTED} / plain step", samples[names.COMPUTED][STEP], plain, averaged=True)
    )
    return ratios


def _epoch_ratio(samples: Samples) -> Ratio:
    name = "epoch under linear GradualUnfreezing / plain epoch"
    return divide(name, samples[EPOCH][STEP], samples[PLAIN_EPOCH][STEP], at_most=0.75)


def run(options: Options) -> None:
    """Run the benchmark and write its results."""
    publish(measure_step(options), options, draw_bars)


if __name__ == "__main__":
    run(parse_options(__doc__))
