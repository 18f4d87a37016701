"""What each process does for the tests here: every case by name, and what came of it written down.

Started by tests/launch.py, with a folder as its argument.
"""

import os
import sys
import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, Subset

from lightning_sparsegrad import (
    AdaptiveGradientClip,
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
    GradientEngine,
    GradientMonitor,
    GradientTransform,
    Identity,
    PretrainedDistance,
)
from lightning_sparsegrad.callbacks._history import read_history
from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.engine.gradient_meter import GradientMeter
from tests.engine.helpers import backward, loss_on, tokens_at
from tests.lightning.tasks import SEED, STRATEGIES, dataset, door_of, through, trainer
from tests.transforms.golden import GOLDEN
from tests.transforms.small import STEPS_PER_EPOCH, WINDOWS, Small, apply, engine_for

from . import models

TRAINED = 4  # steps
SHARDED = [row for row in GOLDEN if row.on_shards]
NOT_FOR_SHARDS = [row for row in GOLDEN if not row.on_shards]

Case = Callable[[DeviceMesh, Path], Any]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


# ---------------------------------------------------------------- plain engines
def transformed(model: nn.Module, transform: GradientTransform) -> tuple[list[Any], dict[str, float]]:
    """Return the gradients that a transform leaves of those of the formula, and its statistics."""
    engine, done = engine_for(model, transform), []
    for step in WINDOWS:
        models.set_gradients(model, step)
        apply(engine, step)
        done.append(models.gathered(model))
    return done, models.numbers(engine.statistics)


@case
def golden(mesh: DeviceMesh, _: Path) -> Any:
    return [transformed(models.shard(Small(), mesh), row.transform) for row in SHARDED]


@case
def not_for_shards(mesh: DeviceMesh, _: Path) -> Any:
    """Return with which error an engine refuses each strategy that does not take shards."""
    errors = []
    for row in NOT_FOR_SHARDS:
        try:
            engine_for(models.shard(Small(), mesh), row.transform)
        except ConfigurationError as error:
            errors.append(str(error))
    return len(errors), errors


@case
def wide(mesh: DeviceMesh, _: Path) -> Any:
    return {name: transformed(models.shard(models.Wide(), mesh), transform) for name, transform in WIDE.items()}


FUSED = {"heads.*": models.HEADS, "columns.*": models.COLUMNS}
WIDE: dict[str, GradientTransform] = {
    "entries": GradDrop(0.4),
    "rescaled": GradDrop(0.4, rescale=True),
    "fused": GradDrop(0.4, fused=True),
    "rows": GradDrop(0.4, granularity="row"),
    "heads": ComponentNormClip(0.5, fused=FUSED),
    "heads by their largest entry": ComponentNormClip(0.5, fused=FUSED, norm_type=float("inf")),
    "a component each": ComponentNormClip(2.0, components="module"),
    "units": AdaptiveGradientClip(7.0, exclude_head=False),
}


@case
def trained(mesh: DeviceMesh, _: Path) -> Any:
    """Train with real backward passes, two micro-batches to a window, each rank on its share of the sequences."""
    rank, ranks, done = mesh.get_rank(), mesh.size(), []
    for row in SHARDED:
        model = models.shard(Small(), mesh, to_train=True)
        engine = engine_for(model, row.transform)
        sharded = [p for p in model.parameters() if p.ndim]
        optimizer = torch.optim.AdamW(sharded, lr=0.05, weight_decay=0.1)
        for step in range(TRAINED):
            optimizer.zero_grad()
            with engine.window(step, epoch=step // STEPS_PER_EPOCH):
                for half in tokens_at(step, 8).chunk(2):
                    torch.rand(1 + rank)
                    backward(loss_on(model, half.chunk(ranks)[rank]) / 2)
                model.temperature.grad = None  # not FSDP2's, so it reduces nothing there
                engine.apply_()
            optimizer.step()
        done.append(models.gathered_weights(model))
    return done


def measured(model: nn.Module, transform: GradientTransform) -> list[Any]:
    """Return what a meter sees in each window."""
    engine, seen = engine_for(model, transform), []
    meter = engine.meter = GradientMeter(engine.parameters, engine.transform, every=1)
    for step in WINDOWS:
        models.set_gradients(model, step)
        apply(engine, step)
        assert meter.last is not None
        seen.append(meter.last.values)
    return seen


@case
def metered(mesh: DeviceMesh, _: Path) -> Any:
    return [measured(models.shard(Small(), mesh), row.transform) for row in SHARDED]


@case
def nonfinite(mesh: DeviceMesh, _: Path) -> Any:
    """Let one entry, on one rank alone, be undefined in the second of three windows."""
    told: dict[str, Any] = {}
    policies: tuple[NonFinite, ...] = ("skip", "raise")
    for policy in policies:
        model = models.shard(Small(), mesh)
        engine = GradientEngine(model, Chain([GradDrop(0.5), ComponentNormClip(0.5)]), nonfinite=policy)
        left = []
        for step in range(3):
            models.set_gradients(model, step)
            if step == 1:
                gradient = model.get_parameter("blocks.1.output.weight").grad
                assert isinstance(gradient, DTensor)
                gradient.to_local().view(-1)[:1] = float("nan") if mesh.get_rank() == mesh.size() - 1 else 1.0
            try:
                apply(engine, step)
            except FloatingPointError as error:
                told["error"] = str(error)
            left.append(sum(parameter.grad is not None for parameter in model.parameters()))
        told[policy] = left, models.numbers(engine.statistics)["nonfinite"]
    return told


@case
def lopsided(mesh: DeviceMesh, _: Path) -> Any:
    """Let one rank alone have a gradient of what is not sharded; then let it be undefined there alone."""
    model = models.shard(Small(), mesh)
    engine = GradientEngine(model, ComponentNormClip(0.5), nonfinite="skip")
    left = []
    for step in range(2):
        models.set_gradients(model, step)
        temperature = model.get_parameter("temperature")
        if step == 0 and mesh.get_rank() > 0:
            temperature.grad = None
        if step == 1 and mesh.get_rank() == 0:
            temperature.grad = torch.tensor(float("nan"))
        apply(engine, step)
        temperature.grad = None
        left.append(models.gathered(model))
    return left


@case
def refused(mesh: DeviceMesh, _: Path) -> Any:
    columns = nn.Linear(8, 8)
    fully_shard(columns, mesh=mesh, shard_placement_fn=lambda parameter: Shard(parameter.ndim - 1))
    parallel = parallelize_module(nn.Sequential(nn.Linear(8, 8)), mesh, {"0": RowwiseParallel()})
    flat = FullyShardedDataParallel(nn.Linear(8, 8), device_id=torch.device("cpu"))
    uneven, rows = nn.Linear(1, 1, bias=False), 2 - (mesh.get_rank() == 0)
    uneven.weight = nn.Parameter(
        DTensor.from_local(
            torch.zeros(rows, 1), mesh, [Shard(0)], shape=torch.Size([2 * mesh.size() - 1, 1]), stride=(1, 1)
        )
    )
    return {
        name: models.refusal(model, Identity())
        for name, model in {"columns": columns, "tensor parallel": parallel, "FSDP1": flat, "uneven": uneven}.items()
    } | {"partial": partial_gradient(mesh)}


def partial_gradient(mesh: DeviceMesh) -> str:
    """Return what an engine says about a gradient that is still to be summed."""
    model = nn.Linear(4, 4, bias=False)
    model.weight = nn.Parameter(DTensor.from_local(model.weight.detach(), mesh, [Replicate()]))
    model.weight.grad = DTensor.from_local(torch.ones(4, 4), mesh, [Partial()])
    engine = GradientEngine(model, Identity())
    try:
        apply(engine, 0)
    except ConfigurationError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- under a Trainer
RUNS = {
    f"{name}, {door}, {accumulate}": (name, door, accumulate)
    for name, (door, accumulate) in zip(STRATEGIES, cycle([("module", 3), ("callback", 1)]), strict=False)
}


def fit(
    mesh: DeviceMesh,
    name: str,
    door: str,
    accumulate: int,
    *,
    kind: type[models.ShardedRegression] = models.ShardedRegression,
    **arguments: Any,
) -> Any:
    seed_everything(SEED, verbose=False)
    task, callbacks = through(door, STRATEGIES[name], kind)
    path = arguments.pop("ckpt_path", None)
    run = trainer(
        devices=mesh.size(),
        strategy=models.strategy(mesh.size()),
        use_distributed_sampler=False,
        accumulate_grad_batches=accumulate,
        **{"max_epochs": 2, **arguments, "callbacks": [*callbacks, *arguments.get("callbacks", [])]},
    )
    samples = dataset(size=4)
    data = DataLoader(Subset(samples, range(mesh.get_rank(), len(samples), mesh.size())), batch_size=4 // mesh.size())
    run.fit(task, data, ckpt_path=path)
    return run


@case
def under_trainer(mesh: DeviceMesh, _: Path) -> Any:
    done = {}
    for name, run in RUNS.items():
        fitted = fit(mesh, *run)
        weights = models.gathered_weights(fitted.lightning_module)
        done[name] = weights, models.numbers(door_of(fitted).gradient_engine.statistics)
    return done


@case
def half_precision(mesh: DeviceMesh, _: Path) -> Any:
    return models.gathered_weights(fit(mesh, "mask and clip", "module", 1, precision="bf16-true").lightning_module)


@case
def resumed(mesh: DeviceMesh, folder: Path) -> Any:
    saving = ModelCheckpoint(folder / "checkpoints", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    whole = fit(mesh, "mask and clip", "callback", 3, callbacks=[saving], enable_checkpointing=True)
    warnings.simplefilter("ignore")
    again = fit(mesh, "mask and clip", "callback", 3, ckpt_path=folder / "checkpoints" / "epoch=0.ckpt")
    return [models.gathered_weights(run.lightning_module) for run in (whole, again)]


@case
def recorded(mesh: DeviceMesh, folder: Path) -> Any:
    """Return what the callbacks wrote, and the weights at the end."""
    callbacks = [
        GradientMonitor(1, path=str(folder / "gradients.csv")),
        PretrainedDistance(1, path=str(folder / "distances.csv"), components="tensor"),
    ]
    fitted = fit(mesh, "mask and clip", "module", 1, callbacks=callbacks)
    torch.distributed.barrier()  # the first process writes
    tables = [read_history(folder / name).select_dtypes("number") for name in ("gradients.csv", "distances.csv")]
    return [torch.tensor(table.to_numpy(float)) for table in tables], models.gathered_weights(fitted.lightning_module)


@case
def made_late(mesh: DeviceMesh, folder: Path) -> Any:
    """Return the distances of a whole fit, and of its last epoch resumed."""
    saving = ModelCheckpoint(folder / "late", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    distances, path = [], folder / "late.csv"
    for checkpoint in (None, folder / "late" / "epoch=0.ckpt"):
        callbacks = [PretrainedDistance(1, path=str(path)), saving]
        arguments = {"callbacks": callbacks, "enable_checkpointing": True, "ckpt_path": checkpoint}
        fit(mesh, "mask and clip", "callback", 1, kind=models.MadeLate, **arguments)
        torch.distributed.barrier()  # the first process writes
        distances.append(torch.tensor(read_history(path)[["step", "rms", "cosine"]].to_numpy(float)))
        torch.distributed.barrier()
    return distances


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (int(os.environ["WORLD_SIZE"]),))
    for name, function in CASES.items():
        torch.save(function(mesh, folder), folder / f"{name} {os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
