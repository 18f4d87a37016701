"""Clips that scale nearly every component in nearly every window of a fit: said at its end."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.loops._callbacks import find_or_add_callback
from lightning_sparsegrad.transforms.base import scaling_of

_EVERY = 10  # windows, of which one is looked at
_LOOKS = 5  # at least: the gradients of the first steps are the largest
_NEARLY_ALL = 0.95


class ClippedCheck(Callback):
    """Says at the end of a fit that a clip of norms has scaled nearly all that it bounds, nearly always.

    Gradients then have the same norms in every step, whatever the loss: the threshold acts as a learning rate. It looks
    at every tenth window, and reads nothing on the host before the end. A resumed fit begins anew.
    """

    def __init__(self) -> None:
        self._engine: GradientEngine | None = None
        self._shares: dict[int, Tensor] = {}  # of what is clipped, by member: their sum
        self._looks, self._step = 0, 0

    @classmethod
    def join(cls, trainer: Trainer, engine: GradientEngine) -> None:
        """Have the clips of an engine looked at by the callback that a Trainer has for it, or a new one."""
        callback = find_or_add_callback(trainer, cls)
        callback._engine, callback._shares, callback._looks = engine, {}, 0
        callback._step = trainer.global_step

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step  # which a checkpoint may have restored since

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
                each = list(factors.values())
                all_of_them = torch.stack(each) if each[0].ndim == 0 else torch.cat(each)
                scaled = (all_of_them < 1).float().mean()  # an undefined norm, of a fit that diverged, is not
                self._shares[index] = self._shares.get(index, 0.0) + scaled

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._engine is None or self._looks < _LOOKS:
            return
        for index, member in enumerate(self._engine.transform.flattened()):
            share = float(self._shares.get(index, 0.0)) / self._looks
            if share >= _NEARLY_ALL:
                rank_zero_info(
                    f"`{member!r}` has scaled {share:.0%} of what it clips in the average of {self._looks} windows: "
                    f"the threshold then acts as a learning rate."
                )
