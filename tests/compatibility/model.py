"""A model and tasks whose gradients are the same to the bit on every processor.

The loss is linear in the weights, so that gradients are multiples of 1/32, which no order of summation rounds; what
optimizers do with them are products with powers of two, and operations that every processor rounds alike.
"""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparsegrad import GradientTransform, SparseGradModule


class Slope(nn.Module):
    """Holds a weight and a bias, whose gradients are numbers that follow from their shape and the input."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_numbers(outputs * inputs, 3).view(outputs, inputs) / 4)
        self.bias = nn.Parameter(_numbers(outputs, 11) / 4)

    def forward(self, start: int) -> Tensor:
        return sum(((p * _numbers(p.numel(), start + p.numel()).view_as(p)).sum() for p in self.parameters()), _ZERO)


class Block(nn.Module):
    """A block of two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.output = Slope(4, 5), Slope(3, 4)

    def forward(self, start: int) -> Tensor:
        total: Tensor = self.attention(start) + self.output(start + 7)
        return total


class Tower(nn.Module):
    """Embeddings, three blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Slope(6, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = Slope(2, 3)

    def forward(self, start: int) -> Tensor:
        """Return the loss of a micro-batch, of which `start` is the number."""
        total: Tensor = self.embeddings(start) + self.head(start + 5) / 16
        for depth, block in enumerate(self.blocks):  # of other sizes: a norm of all depends on what is dropped
            total = total + block(start + 13 * depth) / 2 ** (depth + 1)
        return total


def adamw(model: nn.Module) -> Optimizer:
    """Return an AdamW whose bits no processor changes, as long as gradients are sums of few powers of two."""
    return AdamW(model.parameters(), lr=2**-6, betas=(0.5, 0.5), weight_decay=2**-4)


def sgd(model: nn.Module) -> Optimizer:
    """Return an optimizer whose bits no processor changes."""
    return SGD(model.parameters(), lr=2**-5, momentum=0.5, weight_decay=2**-4)


class TowerTask(SparseGradModule):
    """Fits the tower."""

    def __init__(self, gradient_transform: GradientTransform, optimizer: str = "adamw") -> None:
        super().__init__(gradient_transform=gradient_transform)
        self.save_hyperparameters(ignore=["gradient_transform"])
        self.tower, self.optimizer = Tower(), optimizer

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.tower(int(batch[0].sum()))
        return loss

    def configure_optimizers(self) -> Optimizer:
        return {"adamw": adamw, "sgd": sgd}[self.optimizer](self)


class Rows(LightningDataModule):
    """Nine rows, in an order that is drawn anew in every epoch."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(9) * 5), batch_size=1, shuffle=True)


_ZERO = torch.zeros(())


def _numbers(count: int, start: int) -> Tensor:
    """Return multiples of 1/32 in (-1, 1), none of them zero."""
    numbers = [(17 * start + 23 * index) % 61 - 30 for index in range(count)]
    return torch.tensor([number or 7 for number in numbers], dtype=torch.float32) / 32
