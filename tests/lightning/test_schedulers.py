"""Schedulers of a task: which, over which length, and when they are stepped."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau as LightningPlateau
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from transformers import get_cosine_schedule_with_warmup, get_wsd_schedule, optimization

from lightning_sparsegrad import ConfigurationError, ExactResume, GradDrop, SequenceClassification
from lightning_sparsegrad.modules import LinearDecay
from tests.cases import cases

from ..tiny import tiny_bert
from .tasks import some_long, trainer
from .test_sequence_classification import batches, feed

EPOCHS, BATCHES = 3, 4
STEPS = EPOCHS * BATCHES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_bert(num_labels=3, num_hidden_layers=1).save_pretrained(folder)  # type: ignore[operator]
    return str(folder)


class Rates(Callback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        self.seen.append(float(optimizer.param_groups[0]["lr"]))


def sgd(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.5)


def task(model: str, scheduler: Any, **arguments: Any) -> SequenceClassification:
    names = ("interval", "frequency", "monitor")
    arguments = {f"lr_scheduler_{name}" if name in names else name: value for name, value in arguments.items()}
    return SequenceClassification(model, 3, GradDrop(0.3), optimizer=sgd, lr_scheduler=scheduler, **arguments)


def fit(model: str, scheduler: Any, *, epochs: int = EPOCHS, run: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    rates = Rates()
    made = trainer(max_epochs=epochs, callbacks=[rates], num_sanity_val_steps=0, **(run or {}))
    made.fit(task(model, scheduler, **kwargs), feed(batches("classes")), feed(batches("classes", (4,), seed=1)))
    return rates.seen, made


def expected(scheduler: Callable[[Optimizer], Any], steps: int, every: int = 1) -> list[float]:
    """The rates of a plain loop."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.5)
    stepped, seen = scheduler(optimizer), []
    for step in range(1, steps + 1):
        seen.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if step % every == 0:
            stepped.step()
    return seen


def sequence(optimizer: Optimizer) -> LRScheduler:
    parts = [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, STEPS - 4)]
    return SequentialLR(optimizer, parts, milestones=[4])


def chain(optimizer: Optimizer) -> LRScheduler:
    return ChainedScheduler([ExponentialLR(optimizer, 0.9), StepLR(optimizer, 3)], optimizer)


def function_of_length(optimizer: Optimizer, num_training_steps: int | None = None) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: 1 - step / (num_training_steps or 0))


KINDS: dict[str, Any] = {
    "step": partial(StepLR, step_size=3),
    "cosine": partial(CosineAnnealingLR, T_max=STEPS),
    "milestones": partial(MultiStepLR, milestones=[2, 7]),
    "one cycle": partial(OneCycleLR, max_lr=0.3, total_steps=STEPS),
    "polynomial": partial(PolynomialLR, total_iters=STEPS),
    "sequence": sequence,
    "chain": chain,
    "transformers": partial(get_cosine_schedule_with_warmup, num_warmup_steps=2, num_training_steps=STEPS),
}
PLAIN = ("step", "milestones", "polynomial")  # are functions of the step alone, as "cosine" is


@pytest.mark.parametrize("kind", some_long(KINDS, PLAIN))
def test_rates_are_those_of_a_plain_loop(kind: str, model: str) -> None:
    assert fit(model, KINDS[kind])[0] == pytest.approx(expected(KINDS[kind], STEPS))


@cases("frequency", [1, 2])
def test_by_epoch(frequency: int, model: str) -> None:
    scheduler = partial(CosineAnnealingLR, T_max=EPOCHS)
    seen, _ = fit(model, scheduler, interval="epoch", frequency=frequency)
    assert seen == pytest.approx(expected(scheduler, STEPS, every=BATCHES * frequency))
    assert len(set(seen)) == 3 // frequency + (frequency > 1)


WITHOUT_LENGTH: list[tuple[Any, str]] = [
    (partial(OneCycleLR, max_lr=0.3), "total_steps"),
    (partial(get_cosine_schedule_with_warmup, num_warmup_steps=2), "num_training_steps"),
    (LinearDecay, "total_steps"),
    (partial(LinearDecay, warmup=0.25), "total_steps"),
    (partial(get_wsd_schedule, num_warmup_steps=2, num_decay_steps=3), "num_training_steps"),
    (function_of_length, "num_training_steps"),
]
LENGTHS: list[tuple[dict[str, Any], int]] = [
    ({}, 1),
    ({"frequency": 2}, 2),
    ({"interval": "epoch"}, BATCHES),
    ({"interval": "epoch", "frequency": 2}, 2 * BATCHES),
    ({"run": {"accumulate_grad_batches": 3}}, 1),
    ({"run": {"accumulate_grad_batches": 3}, "frequency": 2}, 2),
]


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")
@cases(
    ("scheduler", "name", "arguments", "every"),
    [
        *((*scheduler, *length) for scheduler in WITHOUT_LENGTH[:2] for length in LENGTHS),
        *((*scheduler, *LENGTHS[0]) for scheduler in WITHOUT_LENGTH[2:]),
    ],
    ids=str,
)
def test_length_that_is_left_out_is_that_of_the_run(
    scheduler: Any, name: str, arguments: dict[str, Any], every: int, model: str
) -> None:
    seen, _ = fit(model, scheduler, **arguments)
    steps = EPOCHS * 2 if "run" in arguments else STEPS
    assert len(seen) == steps
    with_length = partial(scheduler, **{name: steps // every})
    assert seen == pytest.approx(expected(with_length, steps, every=every))


@cases(
    "scheduler",
    [
        partial(get_wsd_schedule, num_warmup_steps=2, num_decay_steps=3, num_stable_steps=7),
        partial(LinearDecay, total_steps=STEPS + 3),
    ],
)
def test_a_length_that_is_given_is_kept(scheduler: Any, model: str) -> None:
    assert fit(model, scheduler)[0] == pytest.approx(expected(scheduler, STEPS))


@cases(
    ("scheduler", "name", "total"),
    [
        (partial(OneCycleLR, max_lr=0.3, total_steps=STEPS - 1), "total_steps", STEPS - 1),
        (partial(OneCycleLR, max_lr=0.3, epochs=2, steps_per_epoch=4), "total_steps", 8),
        (partial(CosineAnnealingLR, T_max=EPOCHS), "T_max", EPOCHS),
        (PolynomialLR, "total_iters", 5),
        (partial(LinearLR, end_factor=0.0, total_iters=4), "total_iters", 4),
        (partial(LinearDecay, total_steps=4), "total_steps", 4),
        (lambda optimizer: LinearDecay(optimizer, total_steps=4), "total_steps", 4),
        (partial(get_cosine_schedule_with_warmup, num_warmup_steps=2, num_training_steps=8), "num_training_steps", 8),
    ],
)
def test_length_that_ends_before_the_run_is_refused(scheduler: Any, name: str, total: int, model: str) -> None:
    rates = Rates()
    message = (
        rf"`{name}` of `\w+` should be at least {STEPS}, .* every step. Found `{name} = {total}`. With `lr_scheduler_i"
    )
    with pytest.raises(ConfigurationError, match=message):
        trainer(max_epochs=EPOCHS, callbacks=[rates]).fit(task(model, scheduler), feed(batches("classes")))
    assert rates.seen == []


@cases("scheduler", [partial(OneCycleLR, max_lr=0.3), function_of_length, LinearDecay])
def test_length_of_a_run_without_one_is_asked_for(scheduler: Any, model: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`max_steps` of the Trainer should be given for `.*` without `"):
        fit(model, scheduler, epochs=-1)


@cases(
    ("scheduler", "arguments"),
    [
        (partial(ReduceLROnPlateau, patience=0, threshold=10.0, threshold_mode="abs"), {"monitor": "val/loss"}),
        (partial(LightningPlateau, monitor="val/loss", patience=0, threshold=10.0, threshold_mode="abs"), {}),
    ],
)
@cases(("every", "changes"), [(1, [0.1, 0.1, 0.01]), (2, [0.1, 0.1, 0.1])])
def test_plateau_follows_its_monitor_by_epoch(
    scheduler: Any, arguments: dict[str, Any], every: int, changes: list[float], model: str
) -> None:
    seen, run = fit(model, scheduler, run={"check_val_every_n_epoch": every}, **arguments)
    assert seen == pytest.approx([rate for rate in changes for _ in range(BATCHES)])  # the first value is the best
    (config,) = run.lr_scheduler_configs
    assert (config.monitor, config.interval, config.frequency) == ("val/loss", "epoch", every)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (None, {"interval": "epoch"}, "`lr_scheduler_interval` should be left out without `lr_scheduler`"),
    (None, {"frequency": 1}, "`lr_scheduler_frequency` should be left out without `lr_scheduler`"),
    (None, {"monitor": "val/loss"}, "`lr_scheduler_monitor` should be left out without `lr_scheduler`"),
    (StepLR, {"interval": "batch"}, "`lr_scheduler_interval` should be one of 'step', 'epoch'"),
    (StepLR, {"frequency": 0}, "`lr_scheduler_frequency` should be positive. Found `lr_scheduler_frequency = 0`"),
    (partial(StepLR, step_size=2), {"monitor": "val/loss"}, "`lr_scheduler_monitor` should be left out unless"),
    (partial(StepLR, step_size=0), {}, "`step_size` of `StepLR` should be positive. Found `step_size = 0`"),
    (StepLR, {}, "`lr_scheduler` should have arguments that it accepts. Found: .*step_size"),
    (partial(StepLR, step_size=2, last_epoch=3), {}, "`lr_scheduler` should have arguments that it accepts"),
    (ReduceLROnPlateau, {}, "`lr_scheduler_monitor` should name the metric of `ReduceLROnPlateau`"),
    (partial(LightningPlateau, monitor="a"), {"monitor": "b"}, "or be its `monitor = a`"),
    (
        ReduceLROnPlateau,
        {"monitor": "val/loss", "frequency": 3, "run": {"check_val_every_n_epoch": 2}},
        "`lr_scheduler_frequency` should be a multiple of `check_val_every_n_epoch = 2`",
    ),
    (
        ReduceLROnPlateau,
        {"monitor": "val/loss", "interval": "step", "frequency": BATCHES - 1},
        "`lr_scheduler_interval` should be `epoch`, or `lr_scheduler_frequency` at least the number of batches before",
    ),
    (
        ReduceLROnPlateau,
        {"monitor": "val/loss", "interval": "step", "frequency": BATCHES, "run": {"check_val_every_n_epoch": 2}},
        "`lr_scheduler_interval` should be `epoch`",
    ),
    (lambda optimizer: optimizer, {}, "`lr_scheduler` should make an LRScheduler of torch. Found `SGD`"),
]
if hasattr(optimization, "get_greedy_schedule"):  # transformers 5.0 has none
    GREEDY = "`lr_scheduler` should make an LRScheduler of torch. Found `GreedyLR`"
    REFUSED.append((optimization.get_greedy_schedule, {}, GREEDY))


@cases(("scheduler", "arguments", "message"), REFUSED)
def test_what_cannot_work_is_refused(scheduler: Any, arguments: dict[str, Any], message: str, model: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit(model, scheduler, **arguments)


@cases("run", [{}, {"val_check_interval": 2}, {"accumulate_grad_batches": 4}])
def test_plateau_may_follow_a_validation_by_step(run: dict[str, Any], model: str) -> None:
    frequency = {"val_check_interval": 3, "accumulate_grad_batches": 1}
    every = next((frequency[name] for name in run), BATCHES)
    _, done = fit(model, ReduceLROnPlateau, monitor="val/loss", interval="step", frequency=every, run=run)
    assert done.lr_scheduler_configs[0].scheduler.last_epoch == EPOCHS


def test_what_is_no_optimizer_is_refused(model: str) -> None:
    wrong = SequenceClassification(model, 3, GradDrop(0.3), optimizer=lambda parameters: list(parameters))
    with pytest.raises(ConfigurationError, match=r"`optimizer` should make an optimizer of torch. Found `list`"):
        trainer().fit(wrong, feed(batches("classes")))


# ---------------------------------------------------------------- resume
PLATEAU = partial(ReduceLROnPlateau, patience=0, threshold=10.0, threshold_mode="abs")
RESUMED: dict[str, tuple[Any, dict[str, Any]]] = {
    **{kind: (scheduler, {}) for kind, scheduler in KINDS.items()},
    "one cycle over the run": (partial(OneCycleLR, max_lr=0.3), {}),
    "transformers over the run": (partial(get_cosine_schedule_with_warmup, num_warmup_steps=2), {}),
    "linear over the run": (LinearDecay, {}),
    "plateau": (PLATEAU, {"monitor": "val/loss"}),
    "plateau by step": (PLATEAU, {"monitor": "train/loss", "interval": "step", "frequency": 2}),
    "by epoch": (partial(CosineAnnealingLR, T_max=EPOCHS), {"interval": "epoch"}),
}


def run_with(folder: Path, epochs: int = EPOCHS) -> tuple[Trainer, Rates]:
    rates = Rates()
    checkpoint = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=5, save_last=False)
    made = trainer(
        max_epochs=epochs,
        callbacks=[rates, checkpoint, ExactResume()],
        enable_checkpointing=True,
        num_sanity_val_steps=0,
    )
    return made, rates


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
@pytest.mark.parametrize("kind", some_long(RESUMED, [*PLAIN, "one cycle", "transformers"]))
def test_resumed_rates_and_weights_are_bit_equal(kind: str, model: str, tmp_path: Path) -> None:
    scheduler, arguments = RESUMED[kind]
    data = feed(batches("classes")), feed(batches("classes", (4,), seed=1))
    whole, again = task(model, scheduler, **arguments), task(model, scheduler, **arguments)
    first, rates = run_with(tmp_path)
    first.fit(whole, *data)
    (path,) = tmp_path.glob("*step=5.ckpt")
    second, resumed = run_with(tmp_path)
    second.fit(again, *data, ckpt_path=path, weights_only=True)
    assert resumed.seen == rates.seen[5:]
    assert len(set(rates.seen)) > 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_a_length_that_is_the_runs_follows_a_longer_one_on_a_resume(model: str, tmp_path: Path) -> None:
    scheduler = partial(OneCycleLR, max_lr=0.3)
    data = feed(batches("classes"))
    first, _ = run_with(tmp_path / "first")
    first.fit(task(model, scheduler), data)
    (path,) = (tmp_path / "first").glob("*step=5.ckpt")
    whole, expected = run_with(tmp_path / "whole", epochs=5)
    whole.fit(task(model, scheduler), data)
    second, rates = run_with(tmp_path / "first", epochs=5)
    second.fit(task(model, scheduler), data, ckpt_path=path, weights_only=True)
    assert rates.seen == pytest.approx(expected.seen[5:])
    assert len(rates.seen) == 15
