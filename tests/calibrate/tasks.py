"""A small task whose single samples matter, and the slow loop that its calibration is compared with."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, IterableDataset

from lightning_sparsegrad import GradientTransform, SparseGradModule
from lightning_sparsegrad.engine._nonfinite import NonFinite

SAMPLES = 12


class Samples(IterableDataset[Any]):
    """A stream of samples, without saying how many there are."""

    def __iter__(self) -> Iterator[Any]:
        return iter(samples())


class Batches(IterableDataset[Any]):
    """A dataset that makes the batches."""

    def __iter__(self) -> Iterator[Any]:
        yield torch.stack(samples())


class Backwards:
    """A batch sampler of a user, with batches of different sizes."""

    def __iter__(self) -> Iterator[list[int]]:
        yield [11, 10, 9, 8, 7]
        yield [6, 5]
        yield [4, 3, 2, 1, 0]

    def __len__(self) -> int:
        return 3


def samples() -> list[Tensor]:
    return [*torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1))]


def loader(kind: str = "shuffled") -> Any:
    if kind == "stream":
        return DataLoader(Samples(), batch_size=4)
    if kind == "batches":
        return DataLoader(Batches(), batch_size=None)
    if kind == "two":
        return [loader(), loader()]
    if kind == "none":
        return DataLoader([])  # type: ignore[arg-type]
    if kind == "backwards":
        return DataLoader(samples(), batch_sampler=Backwards())  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    return DataLoader(samples(), batch_size=4, shuffle=True, generator=generator, drop_last=True)  # type: ignore[arg-type]


class Shrinking(SGD):
    """Halves all weights in each step, with and without a gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.mul_(0.5)
        return loss


class Plain(LightningModule):
    """Two blocks with dropout and a head, which trains on its own data."""

    def __init__(self, data: str = "shuffled", fault: str | None = None, width: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            blocks = [nn.Sequential(nn.Linear(6, width), nn.Dropout(0.5), nn.Tanh(), nn.Linear(width, 6)) for _ in "ab"]
            self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(6, 1)
        self._data, self._fault = data, fault
        self.automatic_optimization = fault != "manual"

    def loss(self, batch: Tensor) -> Tensor:
        hidden = batch
        for block in self.blocks:
            hidden = hidden + block(hidden)
        loss: Tensor = (self.head(hidden).squeeze(1) - batch.sum(1)).abs().mean().exp()
        return loss

    def on_train_epoch_start(self) -> None:
        self.train()  # as some do

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        if self._fault == "interrupted" and batch_idx == 2:
            raise KeyboardInterrupt
        if self._fault == "gaps" and batch_idx % 3 == 2:
            return None
        if self._fault == "infinite" and batch_idx % 3 == 2:
            return self.loss(batch) * torch.inf
        return self.loss(batch)

    def configure_optimizers(self) -> Optimizer:
        kind = Shrinking if self._fault == "shrinks" else SGD
        return kind(self.parameters(), lr=0.05, weight_decay=0.5)

    def train_dataloader(self) -> Any:
        return loader(self._data)


class Task(Plain, SparseGradModule):
    """The same with a strategy of its own."""

    def __init__(
        self, gradient_transform: GradientTransform, nonfinite: NonFinite = "propagate", **kwargs: Any
    ) -> None:
        super().__init__(gradient_transform=gradient_transform, nonfinite=nonfinite, **kwargs)


def task(*, density: float = 0.1, score: str = "fisher", **arguments: Any) -> list[str]:
    """Return arguments of the command line for a task with a mask."""
    mask = {"class_path": "SparseMask", "init_args": {"density": density, "score": score, **arguments}}
    return [f"--model={__name__}.Task", f"--model.gradient_transform={json.dumps(mask)}", *TRAINER]


TRAINER = ["--seed_everything=0", "--trainer.accelerator=cpu", "--trainer.max_epochs=2"]
TRAINER += ["--trainer.accumulate_grad_batches=2", "--trainer.devices=2", "--trainer.limit_train_batches=1"]


# ------------------------------------------------------------ a slow loop
def sums(module: Plain, batches: Iterable[Tensor], score: str) -> dict[str, Tensor]:
    """Return the scores of all entries, sample by sample, in evaluation mode."""
    module.eval()
    totals = {name: torch.zeros_like(tensor) for name, tensor in module.named_parameters()}
    for batch in batches:
        for sample in batch:
            module.zero_grad()
            torch.autograd.backward(module.loss(sample[None]))
            for name, tensor in module.named_parameters():
                assert tensor.grad is not None
                totals[name] += {"fisher": tensor.grad**2, "gradient": abs(tensor.grad), "movement": tensor.grad}[score]
    if score == "movement":
        totals = {name: -totals[name] * tensor.detach() for name, tensor in module.named_parameters()}
    return totals


def largest(scores: dict[str, Tensor], density: float) -> dict[str, set[int]]:
    """Return the indices of the entries with the largest scores of all tensors but the head, by name."""
    entries = [
        (float(score), name, index)
        for name, tensor in scores.items()
        if not name.startswith("head")
        for index, score in enumerate(tensor.flatten())
    ]
    chosen: dict[str, set[int]] = {}
    for _, name, index in sorted(entries, key=lambda entry: -entry[0])[: round(density * len(entries))]:
        chosen.setdefault(name, set()).add(index)
    return chosen
