"""A message at the end of a fit about a clip that scaled nearly everything."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.loops._callbacks import find_or_add_callback
from lightning_sparsegrad.transforms.base import scaling_of

_EVERY = 10  # windows per look
_LOOKS = 5  # minimum: the gradients of the first steps are the largest
_NEARLY_ALL = 0.95


class ClippedCheck(Callback):
    """A callback that reports at the end of a fit that a norm clip has scaled nearly all components, nearly always.

    Gradients then have the same norms in every step, whatever the loss: the threshold acts as a learning rate. It looks
    at every tenth window, and reads nothing on the host before the end. A resumed fit starts from zero.
    """

    def __init__(self) -> None:
        self._engine: GradientEngine | None = None
        self._shares: dict[int, Tensor] = {}  # sum of the shares that a member clipped
        self._looks, self._step = 0, 0

    @classmethod
    def join(cls, trainer: Trainer, engine: GradientEngine) -> None:
        """Watch the clips of an engine with the Trainer's callback for it, or with a new one."""
        callback = find_or_add_callback(trainer, cls)
        callback._engine, callback._shares, callback._looks = engine, {}, 0
        callback._step = trainer.global_step

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step  # a checkpoint may have restored it

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before, self._step = self._step, trainer.global_step
        if self._engine is None or self._step // _EVERY == before // _EVERY:
            return
        self._looks += 1
        for index, member in enumerate(self._engine.transform.flattened()):
            factors = scaling_of(member) if "norm" in member.bounds else None
            if factors:
                tensors = list(factors.values())
                flat = torch.stack(tensors) if tensors[0].ndim == 0 else torch.cat(tensors)
                scaled = (flat < 1).float().mean()  # NaN, in a fit that diverged, does not count
                self._shares[index] = self._shares.get(index, 0.0) + scaled

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._engine is None or self._looks < _LOOKS:
            return
        for index, member in enumerate(self._engine.transform.flattened()):
            share = float(self._shares.get(index, 0.0)) / self._looks
            if share >= _NEARLY_ALL:
                rank_zero_info(
                    f"`{member!r}` scaled {share:.0%} of the components it clips, averaged over {self._looks} windows: "
                    f"the threshold then acts as a learning rate."
                )
