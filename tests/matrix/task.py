"""The small model of the golden rows as a task, the data it trains on, and what its runs are compared with.

A run is three epochs of five micro-batches, three to a window: six optimizer steps, two to an epoch, the second of them
on a short window. So it is at every step where the golden rows' `window_of` says.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, IterableDataset

from lightning_sparsegrad import Chain, Identity
from tests.engine.helpers import loss_on
from tests.lightning.tasks import Weights, plain_loop, through, trainer, weights
from tests.reference import When, frozen_entries, stepped
from tests.transforms.golden import GOLDEN, Golden
from tests.transforms.small import (
    SEED,
    STEPS_PER_EPOCH,
    TOTAL_STEPS,
    Small,
    Snapshot,
    assert_equals_reference,
    layout_of,
    snapshot,
    values_of,
    weights_of,
    window_of,
)

EPOCHS, MICRO_BATCHES, ACCUMULATE, SIZE = TOTAL_STEPS // STEPS_PER_EPOCH, 5, 3, 4
LINES = 5  # tokens in a line

Plan = list[tuple[int, int, list[Tensor]]]  # of every window: its epoch, what the losses are divided by, micro-batches

# both doors go through one adapter; the tests in tests/lightning open each
each_door = pytest.mark.parametrize("door", ["module", pytest.param("callback", marks=pytest.mark.long)])


def knows_when(row: Golden) -> bool:
    """Whether a strategy follows training, step by step, by epochs or to its end, or is made of some that do."""
    transform = row.transform
    if row.learns and not isinstance(transform, Chain):
        return stands_for_its_class(row)
    if row.calibrates:
        return True
    return transform.needs_total_steps or isinstance(transform, Chain) or "epoch" in vars(transform).values()


def stands_for_its_class(row: Golden) -> bool:
    """Whether a row is the first of its class, or the first that calibrates; the contract has the others."""
    return row is next(
        other for other in GOLDEN if type(other.transform) is type(row.transform) and other.calibrates == row.calibrates
    )


def is_in_matrix(row: Golden) -> bool:
    """Whether the matrix takes a row: of strategies that learn or freeze entries, those that stand for their class."""
    if row.holds:
        return not isinstance(row.transform, Chain) and stands_for_its_class(row)
    return not row.learns or knows_when(row)


ROWS = [row for row in GOLDEN if is_in_matrix(row)]
SCALED = [row for row in ROWS if not row.calibrates]  # which is refused under a loss scale


every_row = pytest.mark.parametrize("row", ROWS, ids=str)
every_scaled_row = pytest.mark.parametrize("row", SCALED, ids=str)


def rows_that_know_when(
    names: str,
    first: Sequence[Any],
    second: Sequence[Any],
    *,
    rows: Sequence[Golden] = ROWS,
    quick: Callable[[Golden], bool] = knows_when,
) -> pytest.MarkDecorator:
    """Parametrize `row` and other arguments: the first values with strategies that know where training stands.

    Where these alone differ, the long tests have all strategies, with the second values.
    """
    some = [pytest.param(row, *first, id=f"{row}-first") for row in rows if quick(row)]
    slow = [pytest.param(row, *second, id=f"{row}-second", marks=pytest.mark.long) for row in rows]
    return pytest.mark.parametrize(("row", *names.split()), [*some, *slow])


without_skipping = pytest.mark.filterwarnings("ignore:Gradients that are dropped whole are computed nevertheless")


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return a loss of whose gradients the clips of the golden rows clip some and leave others."""
    return 64 * loss_on(model, tokens)


class Task(Small, LightningModule):
    """Says which token came before."""

    optimizer: Callable[[Any], Optimizer] = staticmethod(partial(SGD, lr=0.001, momentum=0.9, weight_decay=0.1))

    def loss(self, tokens: Tensor) -> Tensor:
        return loss_of(self, tokens)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        return self.loss(batch)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.parameters())


class Adaptive(Task):
    """Trains by AdamW, many tensors at once."""

    optimizer = staticmethod(partial(AdamW, lr=0.05, weight_decay=0.1, foreach=True))


class Fused(Task):
    """Trains by AdamW in one kernel, which under a loss scale undoes the scaling itself."""

    optimizer = staticmethod(partial(AdamW, lr=0.05, weight_decay=0.1, fused=True))


class Transposed(Task):
    """Has inputs that torch multiplies by the same kernels whatever needs a gradient, so that bits can be compared."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for block in self.blocks:
            block.attention.batch_first = False  # type: ignore[union-attr]


# ---------------------------------------------------------------- data
def samples(count: int = MICRO_BATCHES * SIZE) -> Tensor:
    return torch.randint(7, (count, LINES), generator=torch.Generator().manual_seed(1))


def micro_batches() -> list[Tensor]:
    return list(torch.split(samples(), SIZE))


def loader(lines: Tensor | None = None, *, size: int = SIZE) -> DataLoader[Tensor]:
    data: Any = samples() if lines is None else lines  # a tensor is a sequence of samples as it is
    return DataLoader(data, batch_size=size)


class Stream(IterableDataset[Tensor]):
    """The same samples, without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from samples()


def plan(*accumulate: int, batches: Sequence[Tensor] | None = None) -> Plan:
    """Return the windows of a run: one epoch per number of micro-batches."""
    batches = micro_batches() if batches is None else batches
    return [
        (epoch, size, list(batches[start : start + size]))
        for epoch, size in enumerate(accumulate or [ACCUMULATE] * EPOCHS)
        for start in range(0, len(batches), size)
    ]


# ---------------------------------------------------------------- runs
def fit(door: str, row: Golden, kind: type[Task] = Task, *, data: Any = None, **arguments: Any) -> Trainer:
    """Fit a new task through a door; return the Trainer."""
    task, doors = through(door, row.transform, kind)
    return fit_task(task, data=data, **{**arguments, "callbacks": [*arguments.get("callbacks", []), *doors]})


def fit_task(task: LightningModule, *, data: Any = None, **arguments: Any) -> Trainer:
    """Fit a task; return the Trainer."""
    run = trainer(**{"max_epochs": EPOCHS, "accumulate_grad_batches": ACCUMULATE, **arguments})
    run.fit(task, loader() if data is None else data)
    return run


def in_plain_loop(row: Golden, windows: Plan, kind: Callable[[], Task] = Task, **arguments: Any) -> Weights:
    """Train through the engine, in a loop written out."""
    return plain_loop(kind(), row.transform, windows, **{"total_steps": len(windows), "seed": SEED, **arguments})


def by_reference(row: Golden, windows: Plan, *, total_steps: int | None = None) -> Weights:
    """Train without the library: each window as one big batch, its gradient through the slow reference."""
    task, does = Task(), row.reference()
    optimizer = task.configure_optimizers()
    for step, (epoch, divisor, batches) in enumerate(windows):
        optimizer.zero_grad()
        if batches:
            torch.autograd.backward(task.loss(torch.cat(batches)) * len(batches) / divisor)
        now = When(step=step, epoch=epoch, total_steps=total_steps or len(windows), seed=SEED)
        left = does(values_of(task), now, layout_of(task))
        for name, parameter in task.named_parameters():
            entries = left[name]
            parameter.grad = None if entries is None else torch.tensor(entries.values).view(parameter.shape)
        before = weights(task)
        optimizer.step()
        stepped(does)
        for name, positions in frozen_entries(does, layout_of(task)).items():
            for position in positions:
                task.get_parameter(name).detach().view(-1)[position] = before[name].view(-1)[position]
    return weights(task)


def assert_close(actual: Weights, expected: Weights) -> None:
    """Assert equality to rounding, and that training moved something."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    before = weights(Task())
    assert any(not torch.equal(weight, before[name.removeprefix("model.")]) for name, weight in actual.items())


# ---------------------------------------------------------------- what becomes of each gradient
@dataclass(frozen=True)
class Seen:
    """The gradients of one window: as the last backward pass left them, times the loss scale, and as they were used.

    Attributes:
        scale: The loss scale; `None` without a scaler.
        weights: The weights they are gradients of.
    """

    before: Snapshot
    after: Snapshot
    scale: float | None
    weights: dict[str, list[float]]

    @property
    def happened(self) -> bool:
        """Whether the step changed the weights: a scaler skips it if a gradient is not finite."""
        left = [gradient for gradient in self.after.values() if gradient is not None]
        return self.scale is None or all(bool(gradient.isfinite().all()) for gradient in left)


class Witness(Callback):
    """Looks at the gradients of every window before and after the door; it has to stand before the door."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._steps = 0

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before, self._weights = snapshot(pl_module), weights_of(pl_module)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._scale = scaler.get_scale() if scaler else None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.seen.append(Seen(self._before, snapshot(pl_module), self._scale, self._weights))


def assert_follows_reference(row: Golden, seen: Sequence[Seen]) -> None:
    """Assert that every window's gradient went through the slow reference, once, in its true units."""
    assert len(seen) == TOTAL_STEPS
    layout, does, changed = layout_of(Small()), row.reference(), False
    for step, window in enumerate(seen):
        before = values_of(window.before, scale=window.scale or 1.0)
        now = replace(window_of(step), scaled=window.scale is not None)
        expected = does(before, now, replace(layout, weights=window.weights))
        assert_equals_reference(window.after, expected)
        if window.happened:
            stepped(does)
        changed |= expected != before
        later = seen[min(step + 1, TOTAL_STEPS - 1)].weights
        for name, positions in frozen_entries(does, layout).items():
            assert all(later[name][i] == window.weights[name][i] for i in positions), f"{name} moved where it is frozen"
    assert row.leaves_out or changed != isinstance(row.transform, Identity), "what changes nothing shows nothing"
