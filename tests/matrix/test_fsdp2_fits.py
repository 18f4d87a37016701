"""FSDP2 under a Trainer: the weights of one process, whole or resumed, and the records of callbacks."""

import warnings
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.data import DataLoader, Subset

from lightning_sparsegrad import (
    AutoClip,
    Chain,
    GradDrop,
    GradientMonitor,
    PretrainedDistance,
    SparseMask,
    TrainableRows,
)
from lightning_sparsegrad.callbacks._history import read_history
from lightning_sparsegrad.functional import unpack_bits
from tests.cases import cases
from tests.lightning.tasks import (
    SEED,
    STRATEGIES,
    Regression,
    dataset,
    door_of,
    loader,
    plain_loop,
    through,
    trainer,
    windows,
)
from tests.transforms.small import flat

from . import sharded
from . import test_ddp as ddp
from .ranks import CASES, Results, case

pytestmark = pytest.mark.distributed


# ---------------------------------------------------------------- what each rank does
RUNS = {
    f"{name}, {door}, {accumulate}": (name, door, accumulate)
    for name, (door, accumulate) in zip(STRATEGIES, cycle([("module", 3), ("callback", 1)]), strict=False)
}

LEARNS = {
    "mask and learnt clip": Chain({"mask": GradDrop(0.5), "clip": AutoClip(10.0, components="block", history=16)}),
    "rows and entries": Chain(
        {
            "rows": TrainableRows({"network.blocks.0.*.weight": [0, 5]}),
            "entries": SparseMask(0.3, exclude="network.blocks.0.*", calibration_windows=2),
        }
    ),
}


def fit(
    mesh: DeviceMesh,
    name: str,
    door: str,
    accumulate: int,
    *,
    kind: type[sharded.ShardedRegression] = sharded.ShardedRegression,
    **arguments: Any,
) -> Any:
    seed_everything(SEED, verbose=False)
    task, callbacks = through(door, {**STRATEGIES, **LEARNS}[name], kind)
    path = arguments.pop("ckpt_path", None)
    run = trainer(
        devices=mesh.size(),
        strategy=sharded.strategy(mesh.size()),
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
        weights = sharded.gathered_weights(fitted.lightning_module)
        done[name] = weights, sharded.numbers(door_of(fitted).gradient_engine.statistics)
    return done


@case
def half_precision(mesh: DeviceMesh, _: Path) -> Any:
    return sharded.gathered_weights(fit(mesh, "mask and clip", "module", 1, precision="bf16-true").lightning_module)


@case
def resumed(mesh: DeviceMesh, folder: Path) -> Any:
    fits = {}
    for name in ("mask and clip", *LEARNS):
        saving = ModelCheckpoint(folder / name, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
        whole = fit(mesh, name, "callback", 1, callbacks=[saving], enable_checkpointing=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = fit(mesh, name, "callback", 1, ckpt_path=folder / name / "epoch=0.ckpt")
        fits[name] = [
            (sharded.gathered_weights(run.lightning_module), door_of(run).gradient_engine.state_dict())
            for run in (whole, again)
        ]
    return fits


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
    return [torch.tensor(table.to_numpy(float)) for table in tables], sharded.gathered_weights(fitted.lightning_module)


@case
def made_late(mesh: DeviceMesh, folder: Path) -> Any:
    """Return the distances of a whole fit, and of its last epoch resumed."""
    saving = ModelCheckpoint(folder / "late", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    distances, path = [], folder / "late.csv"
    for checkpoint in (None, folder / "late" / "epoch=0.ckpt"):
        callbacks = [PretrainedDistance(1, path=str(path)), saving]
        arguments = {"callbacks": callbacks, "enable_checkpointing": True, "ckpt_path": checkpoint}
        fit(mesh, "mask and clip", "callback", 1, kind=sharded.MadeLate, **arguments)
        torch.distributed.barrier()  # the first process writes
        distances.append(torch.tensor(read_history(path)[["step", "rms", "cosine"]].to_numpy(float)))
        torch.distributed.barrier()
    return distances


# ---------------------------------------------------------------- what is expected of it
@cases("name", sorted({*CASES} - {*ddp.RUNS, *ddp.REFUSED, "refused"}))  # that a rank holds too few rows, it alone sees
def test_all_ranks_come_to_the_same(results: Results, name: str) -> None:
    first, *others = results[name]
    assert first
    assert all(flat(other) == flat(first) for other in others)


@cases("name", RUNS)
def test_a_trainer_trains_as_one_process_does(results: Results, name: str) -> None:
    strategy, _, accumulate = RUNS[name]
    batches = list(loader(size=4))
    expected = plain_loop(
        Regression(), STRATEGIES[strategy], windows(accumulate, accumulate, batches=batches), seed=SEED
    )
    weights, statistics = results["under_trainer"][0][name]
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
    assert statistics.get("kept", 0.5) < 1


def test_a_resumed_fit_is_one_that_never_stopped(results: Results) -> None:
    for whole, again in results["resumed"][0].values():
        assert flat(whole) == flat(again)
    (_, state), _ = results["resumed"][0]["mask and learnt clip"]
    assert state["transform"]["clip"]["count"].min() > 1
    (weights, state), _ = results["resumed"][0]["rows and entries"]
    start, name = dict(Regression().named_parameters()), "network.blocks.0.0.weight"
    assert (weights[name] != start[name]).any(1).nonzero().flatten().tolist() == [0, 5]
    masks = state["transform"]["entries"]["masks"]
    assert masks.keys() == {name for name in start if name.startswith(("network.blocks.1", "network.blocks.2"))}
    for name, held in masks.items():
        moved = weights[name] != start[name]
        assert not moved[~unpack_bits(held["bits"], held["shape"])].any()
        assert moved.any() == held["bits"].any()


def test_half_precision_trains(results: Results) -> None:
    trained, start = results["half_precision"][0], Regression()
    for name, weight in start.named_parameters():
        assert trained[name].dtype == torch.bfloat16
        assert not torch.equal(trained[name].float(), weight)
        torch.testing.assert_close(trained[name].float(), weight.detach(), rtol=0, atol=0.25)


def test_what_callbacks_record_is_of_whole_tensors(results: Results) -> None:
    (gradients, distances), weights = results["recorded"][0]
    start, names = dict(Regression().named_parameters()), list(weights)
    *_, kept, thresholds = gradients.unbind(1)
    assert kept.max() == 1
    assert 0.4 < kept.mean() < 0.8
    assert thresholds.tolist() == pytest.approx([0.02] * len(thresholds))
    for (*_, rms, cosine), name in zip(distances[-len(names) :].tolist(), names, strict=True):
        now, before = weights[name].double().flatten(), start[name].detach().double().flatten()
        assert rms == pytest.approx(float((now - before).square().mean().sqrt()), rel=1e-4)
        assert cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(now, before, dim=0)), rel=1e-5)


def test_distances_of_a_resumed_fit_start_where_late_weights_were_made(results: Results) -> None:
    whole, again = results["made_late"][0]
    assert torch.equal(whole, again)
