"""Models sharded by FSDP2: those of the golden rows and of the Trainer's tests, and a wide one."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.pytorch_utils import Conv1D

from lightning_sparsegrad import ConfigurationError, FusedProjection, GradientEngine, GradientTransform
from tests.lightning.tasks import Network, Regression
from tests.transforms.small import Snapshot, by_formula

COLUMNS = FusedProjection([5, 5, 5])
HEADS = FusedProjection([3, 2, 2], groups=4)  # a group per head, whose parts cross the borders of shards


class Wide(nn.Module):
    """Tensors that take every way through a mask, on shards that begin anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20_003, 5)
        self.wide = nn.Linear(301, 203)
        self.heads = nn.Linear(3, 28)
        self.small = nn.Linear(2, 3)
        self.columns = Conv1D(15, 5)  # type: ignore[no-untyped-call]  # cut along its columns; on four processes, one holds no row of it
        for name, parameter in self.named_parameters():
            parameter.data = (by_formula(name, parameter.numel(), 0) / 8).view(parameter.shape)


def gradient_of(name: str, parameter: Tensor, step: int) -> Tensor:
    """Return the whole gradient of a parameter, by formula; of an embedding, most rows are zero."""
    gradient = by_formula(name, parameter.numel(), step).view(parameter.shape)
    if name == "embedding.weight":
        rows = torch.arange(len(gradient)).view(-1, 1)
        gradient = gradient.masked_fill(rows % 17 != step, 0.0)
    return gradient


def shard(model: nn.Module, mesh: DeviceMesh, *, to_train: bool = False) -> nn.Module:
    """Shard a model block by block; FSDP2 takes no 0-d parameter, and reduces no gradient of an empty one."""
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    scalars |= {parameter for parameter in model.parameters() if to_train and not parameter.numel()}
    for block in getattr(model, "blocks", []):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=scalars)
    return model


def set_gradients(model: nn.Module, step: int) -> None:
    for name, parameter in model.named_parameters():
        gradient = gradient_of(name, parameter, step)
        if isinstance(parameter, DTensor):
            gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
        parameter.grad = gradient


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(model: nn.Module) -> Snapshot:
    """Return the whole gradients."""
    return {name: None if p.grad is None else whole(p.grad).clone() for name, p in model.named_parameters()}


def gathered_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(parameter.detach()).clone() for name, parameter in model.named_parameters()}


class ShardedRegression(Regression):
    """The task of the Trainer's tests, sharded by its strategy; it draws other random numbers on every rank."""

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh is None or any(isinstance(parameter, DTensor) for parameter in self.parameters()):
            return
        for block in self.network.blocks:
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(self.network, mesh=mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        torch.rand(1 + self.global_rank)
        return super().training_step(batch, batch_idx)


class MadeLate(ShardedRegression):
    """The same, with a network that is not there before `configure_model`."""

    def __init__(self) -> None:
        super().__init__()
        del self.network

    def configure_model(self) -> None:
        if not hasattr(self, "network"):
            self.network = Network()
        super().configure_model()


def strategy(count: int) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=count, tensor_parallel_size=1)


def refusal(model: nn.Module, transform: GradientTransform) -> str:
    """Return what an engine says about a model it refuses."""
    try:
        GradientEngine(model, transform)
    except ConfigurationError as error:
        return str(error)
    return ""


def numbers(statistics: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in statistics.items()}
