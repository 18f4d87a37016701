"""A tiny regression in two forms, one for each door, and the plain loop that both are compared with."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradientTransformCallback,
    HeadOnly,
    LayerGradDrop,
    SparseGradModule,
)
from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.transforms.base import Gradients, Window

SEED = 6
WIDTH = 8
BATCHES = 7
DOORS = ("module", "callback")
STRATEGIES: dict[str, GradientTransform] = {
    "mask and clip": Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.02)}),
    "clip and mask": Chain({"clip": ComponentNormClip(0.02), "mask": GradDrop(0.5)}),
    "mask per epoch": GradDrop(0.5, resample_every="epoch"),
    "layers": LayerGradDrop(0.5),
    "head": HeadOnly(),
    "tensors": GradDrop(0.5, granularity="tensor"),
}

Batch = Sequence[Tensor]
Weights = dict[str, Tensor]


class Network(nn.Module):
    """Three blocks and a head, with the same weights every time."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)) for _ in range(3)
            )
            self.head = nn.Linear(WIDTH, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = inputs + block(inputs)
        outputs: Tensor = self.head(inputs)
        return outputs


class Regression(LightningModule):
    """A user's task that does not use the library."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = Network()

    def loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        return mse_loss(self.network(inputs), targets)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=0.01, weight_decay=0.1)


class Recording(GradientTransform):
    """Remembers the windows it was applied in: step and epoch."""

    def __init__(self) -> None:
        self.windows: list[tuple[int, int | None]] = []

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self.windows.append((window.step, window.epoch))


def through(
    door: str, transform: GradientTransform, kind: type[LightningModule] = Regression, **arguments: Any
) -> tuple[Any, list[Callback]]:
    """Return a task whose gradients go through a transform, and the callbacks that its Trainer needs for it."""
    if door == "module":
        sparse = type(f"Sparse{kind.__name__}", (kind, SparseGradModule), {})
        return sparse(gradient_transform=transform, **arguments), []
    return kind(), [GradientTransformCallback(transform, **arguments)]


def door_of(run: Trainer) -> GradientTransformCallback | SparseGradModule:
    """Return the module or callback that holds the engine of a Trainer's last fit."""
    candidates = [run.lightning_module, *run.callbacks]  # type: ignore[attr-defined]
    (door,) = (each for each in candidates if isinstance(each, GradientTransformCallback | SparseGradModule))
    return door


def fit(
    door: str, transform: GradientTransform, kind: type[Regression] = Regression, *, data: Any = None, **arguments: Any
) -> Trainer:
    """Fit a new task through a door; return the Trainer."""
    task, callbacks = through(door, deepcopy(transform), kind)
    run = trainer(**{**arguments, "callbacks": [*callbacks, *arguments.get("callbacks", [])]})
    run.fit(task, loader() if data is None else data, loader(2))
    return run


def trainer(**arguments: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{"accelerator": "cpu", "max_epochs": 1, **quiet, **arguments})


def dataset(batches: int = BATCHES, size: int = 2) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(batches * size, WIDTH, generator=generator)
    return TensorDataset(inputs, inputs.sum(1, keepdim=True) + torch.randn(len(inputs), 1, generator=generator))


def loader(batches: int = BATCHES, size: int = 2) -> DataLoader[Any]:
    return DataLoader(dataset(batches, size), batch_size=size)


class Resumable:
    """A loader that resumes after the batch at which it was saved."""

    def __init__(self) -> None:
        self.batches: list[Batch] = list(loader())
        self.position = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.position % len(self.batches), len(self.batches)):
            self.position = index + 1
            yield self.batches[index]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Stream(IterableDataset[Any]):
    """The same samples, without saying how many there are."""

    def __iter__(self) -> Iterator[Any]:
        samples = dataset()
        yield from (samples[index] for index in range(len(samples)))


def some_long(names: Iterable[str], long: Sequence[str]) -> list[Any]:
    """Return names for `parametrize`, some of them marked `long`."""
    return [pytest.param(name, marks=[pytest.mark.long] * (name in long)) for name in names]


def by_turns(*axes: Iterable[Any]) -> list[Any]:
    """Return every combination, every other one of them marked `long`: the rest have each value with each other one."""
    combinations = product(*map(enumerate, map(list, axes)))
    return [
        pytest.param(*(value for _, value in each), marks=[pytest.mark.long] * (sum(index for index, _ in each) % 2))
        for each in combinations
    ]


def weights(source: nn.Module | Trainer) -> Weights:
    module = source.lightning_module if isinstance(source, Trainer) else source
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def windows(*accumulate: int, batches: Sequence[Batch] | None = None) -> list[tuple[int, int, list[Batch]]]:
    """Return the windows of one epoch per number of micro-batches: epoch, that number, and the micro-batches."""
    data = list(loader()) if batches is None else batches
    return [
        (epoch, size, list(data[start : start + size]))
        for epoch, size in enumerate(accumulate)
        for start in range(0, len(data), size)
    ]


def plain_loop(
    task: Any,
    transform: GradientTransform,
    windows: Sequence[tuple[int, int, Sequence[Any]]],
    *,
    total_steps: int | None = None,
    seed: int = SEED,
    first_step: int = 0,
    optimizer: Optimizer | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    scaler: torch.amp.GradScaler | None = None,
    set_to_none: bool = True,
) -> Weights:
    """Train a task that knows its loss on a batch as anybody would without a Trainer; return the weights."""
    engine = GradientEngine(task, transform, total_steps=total_steps, seed=seed)
    optimizer = optimizer or task.configure_optimizers()
    engine.attach(optimizer)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for step, (epoch, divisor, batches) in enumerate(windows, start=first_step):
        optimizer.zero_grad(set_to_none=set_to_none)
        with engine.window(step, epoch=epoch):
            for batch in batches:
                with autocast():
                    loss = task.loss(batch)
                torch.autograd.backward(scaler.scale(loss / divisor))
            engine.apply_(loss_scale=scaler.scale(torch.ones(())) if scaler.is_enabled() else None)
        scaler.step(optimizer)
        scaler.update()
    return weights(task)


def assert_same_weights(actual: Weights, expected: Weights) -> None:
    """Assert equality bit for bit."""
    assert actual.keys() == expected.keys()
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name
