"""Laws of loops: each adapter gives the weights of the plain loop on the same batches."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from benchmarks.gpu.laws._law import (
    SEED,
    TOTAL_STEPS,
    Snapshot,
    UnsupportedError,
    adamw,
    differing,
    engine_for,
    loss_of,
    small,
    train,
    weights_of,
)
from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    FabricAdapter,
    GradDrop,
    GradientTransform,
    GradientTransformCallback,
)
from lightning_sparsegrad.modules.base import SparseGradModule  # the package's own name loads jsonargparse too

STEPS = 5


def mask_and_clip() -> GradientTransform:
    """Return the strategy of all loops."""
    return Chain([GradDrop(0.3), ComponentNormClip(0.05)])


def weights_of_plain_loop(device: torch.device, model: nn.Module | None = None) -> Snapshot:
    """Return the weights after a loop around the engine alone."""
    model = small(device) if model is None else model
    train(engine_for(model, mask_and_clip()), adamw(model), range(STEPS), device)
    return weights_of(model)


def require_same(weights: Snapshot, other: Snapshot, what: str) -> None:
    """Assert that weights have the same bits."""
    apart = differing(weights, other)
    assert not apart, f"{what}: {apart}"


def require_trained(weights: Snapshot, device: torch.device, what: str) -> None:
    """Assert that weights are finite and have moved."""
    lost = [name for name, weight in weights.items() if weight is not None and not weight.isfinite().all()]
    assert not lost, f"{what}: {lost} are not finite"
    assert len(differing(weights, weights_of(small(device)))) > 20, f"{what}: few tensors train"


def _precisions(device: torch.device) -> list[str]:
    return ["32-true", "bf16-mixed", *["16-mixed"] * (device.type == "cuda")]


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the advice of loops out of a report."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "transformers")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# ---------------------------------------------------------------- Lightning
class _Loss:
    """What the two tasks have in common."""

    model: nn.Module
    device: torch.device

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a batch, which is a step."""
        return loss_of(self.model, batch_idx, batch.device)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer of the plain loop."""
        return adamw(self.model)


class _Module(_Loss, SparseGradModule):
    def __init__(self, device: torch.device) -> None:
        super().__init__(gradient_transform=mask_and_clip())
        self.model = small(device)


class _Task(_Loss, LightningModule):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.model = small(device)


def check_lightning(device: torch.device) -> str:
    """A Trainer, by the module and by the callback, in each precision."""
    number = 0
    for precision in _precisions(device):
        reference = None
        for door in ("module", "callback"):
            weights = _fitted(device, precision, door)
            what = f"the {door} in {precision}"
            require_trained(weights, device, what)
            reference = weights if reference is None else reference
            require_same(weights, reference, what)
            number += 1
    return f"{number} fits"


def _fitted(device: torch.device, precision: Any, door: str) -> Snapshot:
    task = _Module(device) if door == "module" else _Task(device)
    callbacks: list[Any] = [] if door == "module" else [GradientTransformCallback(mask_and_clip())]
    with quietly():
        trainer = Trainer(
            accelerator=device.type,
            devices=1,
            precision=precision,
            max_steps=STEPS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
        trainer.fit(task, DataLoader(torch.arange(TOTAL_STEPS), batch_size=1))  # type: ignore[arg-type]
    assert trainer.global_step == STEPS, f"{trainer.global_step} of {STEPS} steps"
    return weights_of(task.model)


# ---------------------------------------------------------------- Fabric and Accelerate
def check_fabric(device: torch.device) -> str:
    """A loop written with Fabric, in each precision."""
    for precision in _precisions(device):
        with quietly():
            weights = _by_fabric(device, precision)
        require_trained(weights, device, precision)
        if precision == "32-true":
            require_same(weights, weights_of_plain_loop(device), precision)
    return f"{len(_precisions(device))} precisions"


def _by_fabric(device: torch.device, precision: Any) -> Snapshot:
    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
    bare = small(device)
    model, optimizer = fabric.setup(bare, adamw(bare))
    adapter = FabricAdapter(fabric, model, optimizer, mask_and_clip(), total_steps=TOTAL_STEPS, seed=SEED)
    for step in range(STEPS):
        with adapter.window(epoch=0):
            fabric.backward(loss_of(model, step, device))
        adapter.apply_()
        optimizer.step()
        optimizer.zero_grad()
    return weights_of(bare)


def check_accelerate(device: torch.device) -> str:
    """A loop written with Accelerate."""
    if find_spec("accelerate") is None:
        raise UnsupportedError("Accelerate is not installed")
    from accelerate import Accelerator  # an extra

    from lightning_sparsegrad import AccelerateAdapter  # which needs it

    with quietly():
        accelerator = Accelerator(cpu=device.type == "cpu")
        bare = small(device)
        model, optimizer = accelerator.prepare(bare, adamw(bare))
        adapter = AccelerateAdapter(accelerator, model, optimizer, mask_and_clip(), total_steps=TOTAL_STEPS, seed=SEED)
        for step in range(STEPS):
            with adapter.accumulate():
                accelerator.backward(loss_of(model, step, device))
                adapter.apply_()
                optimizer.step()
                optimizer.zero_grad()
    require_same(weights_of(bare), weights_of_plain_loop(device), "Accelerate")
    return f"{STEPS} steps"
