"""The adapter of Lightning's loop, which drives an engine from the hooks of a module or a callback."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from math import ceil
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad.engine._nonfinite import NonFinite, check_policy
from lightning_sparsegrad.engine._refusals import require_transform
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.loops._callbacks import callbacks_of, find_callback, find_or_add_callback, put_first
from lightning_sparsegrad.loops._clipped import ClippedCheck
from lightning_sparsegrad.loops._divergence import DivergenceCheck
from lightning_sparsegrad.loops._gate import Gate
from lightning_sparsegrad.loops._lightning import forget_loaders, passes_over_batch_norms, should_accumulate
from lightning_sparsegrad.loops._monitored import MonitorCheck
from lightning_sparsegrad.loops._refusals import (
    refuse_twins,
    refuse_unsupported,
    warn_of_lost_states,
    warn_of_rounded_averages,
)
from lightning_sparsegrad.loops._statistics import logged_statistics
from lightning_sparsegrad.loops._strategy_state import KEY, packed, restore
from lightning_sparsegrad.loops._token_rows import with_token_rows
from lightning_sparsegrad.loops._trainable import log_trainable
from lightning_sparsegrad.loops._twins import is_a
from lightning_sparsegrad.loops._untrained import warn_of_untrained
from lightning_sparsegrad.loops._warmups import report_long_warmups
from lightning_sparsegrad.transforms import SparseMask, SpikeSkip
from lightning_sparsegrad.transforms.base import GradientTransform


class LightningAdapter:
    """An adapter that opens a window at the first micro-batch of a step and applies the transform after the last.

    Args:
        transform: The strategy.
        owner: Name of the class that owns this adapter, for errors.
        gate: The gate for checkpoints.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do with gradients that are not finite, see `GradientEngine`.

    Attributes:
        transform: The strategy, as given.
    """

    def __init__(
        self, transform: GradientTransform, *, owner: str, gate: Gate, skip_dropped: bool, nonfinite: NonFinite
    ) -> None:
        require_transform(f"`gradient_transform` of `{owner}`", transform)
        check_policy(nonfinite)
        self.transform = transform
        self._owner, self._gate, self._skip_dropped, self._nonfinite = owner, gate, skip_dropped, nonfinite
        self._engine: GradientEngine | None = None
        self._restored: Mapping[str, Any] | None = None
        self._hook_seen = False  # in this window
        self._pending = False  # whether there is a gradient that the transform has not seen yet
        self._stepped: set[int] = set()  # the optimizers that have used the transformed gradients

    @property
    def engine(self) -> GradientEngine:
        """The engine of the running fit; raises a `RuntimeError` before `fit_start`."""
        if self._engine is None:
            raise RuntimeError(
                f"The gradient engine of `{self._owner}` should exist from the start of a fit. Found none: does "
                f"`on_fit_start` call super()?"
            )
        return self._engine

    # ------------------------------------------------------------ hooks, in the order they are called
    def fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Bind the transform to the module; raise a `ConfigurationError` if they cannot work together."""
        refuse_unsupported(trainer, self.transform)
        refuse_twins(trainer)
        warn_of_rounded_averages(trainer, self.transform)
        find_or_add_callback(trainer, MonitorCheck)
        steps = self._count_steps(trainer)
        self._engine = self._new_engine(trainer, module, total_steps=steps)
        warn_of_lost_states(module, self._engine, self.transform)
        count = partial(count_steps, trainer) if steps is None else lambda: steps
        warn_of_untrained(self._engine, count=count, epoch_steps=partial(_epoch_steps, trainer), warn=rank_zero_warn)
        report_long_warmups(self._engine, count=count, report=rank_zero_info)
        log_trainable(module)
        _LeaveAsItWas.join(trainer, self._engine, self._gate)
        find_or_add_callback(trainer, DivergenceCheck)
        ClippedCheck.join(trainer, self._engine)
        self._gate.opened(trainer, holds_gradient=lambda: self._pending)
        self._hook_seen = self._pending = False
        self._resume(trainer)
        self._gate.started(trainer)

    def _resume(self, trainer: Trainer) -> None:
        """Give the engine the state that was restored for this fit, if any."""
        if self._restored is not None and trainer.ckpt_path:  # else this fit starts from the loaded weights alone
            self._gate.resumed(trainer, self._restored)
            if KEY in self._restored:
                restore(self.engine, self.transform, self._restored[KEY], warn=rank_zero_warn)
            if os.environ.get("PL_GLOBAL_SEED", seed := str(self.engine.seed)) != seed:
                rank_zero_info(f"The strategy draws with the seed of the previous run, {seed}, unless it has its own.")
        self._restored = None

    @contextmanager
    def searching(self, trainer: Trainer, module: LightningModule, *, begun: bool) -> Iterator[Callable[[], None]]:
        """Run a search of Lightning's tuner with separate engines, and restore everything afterwards.

        Args:
            trainer: The Trainer, before the search changes its limits.
            module: The module.
            begun: Whether the fit is already training; the search then starts with the state of its engine.

        Yields:
            A function that begins a trial with a new engine.
        """
        kept = dict(vars(self))
        refuse_unsupported(trainer, self.transform)
        steps = self._count_steps(trainer)
        state = deepcopy(self._engine.state_dict()) if begun and self._engine is not None else None

        def begin() -> None:
            if self._engine is not None:
                self._engine.abandon()
            self._engine = self._new_engine(trainer, module, total_steps=steps, searches=True)
            if state is not None:
                self._engine.load_state_dict(state)
            self._hook_seen, self._pending, self._stepped = False, False, set()

        try:
            yield begin
        finally:
            if self._engine is not None:
                self._engine.abandon()
            vars(self).update(kept)

    def _count_steps(self, trainer: Trainer) -> int | None:
        return count_steps(trainer) if self.transform.needs_total_steps else None

    def _new_engine(
        self, trainer: Trainer, module: LightningModule, *, total_steps: int | None, searches: bool = False
    ) -> GradientEngine:
        transform = _with_token_rows(self.transform, trainer, module)
        engine = GradientEngine(
            trainer.strategy.model or module,  # with its wrapper, if there is one
            _for_search(transform) if searches else transform,
            total_steps=total_steps,
            seed=_run_seed(trainer),
            skip_dropped=self._skip_dropped,
            nonfinite="propagate" if searches and self._nonfinite == "raise" else self._nonfinite,
        )
        if not module.automatic_optimization:
            engine.compute_everything("under manual optimization, only you know which forward pass trains what")
        return engine

    def batch_start(self, trainer: Trainer) -> None:
        """Open the window at the first micro-batch of an optimizer step."""
        window = self.engine.current
        if window is not None and (window.step, window.epoch) == (trainer.global_step, trainer.current_epoch):
            return
        # an open window belongs to a step that never happened: `on_train_batch_start` ended the epoch early
        self.engine.abandon()
        self.engine.open(trainer.global_step, epoch=trainer.current_epoch)
        self._hook_seen = False

    def after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        """Apply the transform if an optimizer step follows this backward pass."""
        self._hook_seen = self._pending = True
        if module.automatic_optimization and not should_accumulate(trainer):
            self.apply_(trainer, module)

    def before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Check that the transform was applied to the gradients that the optimizer is about to use."""
        if passes_over_batch_norms(trainer):
            module.zero_grad()  # the last gradients would move the averaged weights
            self.engine.abandon()
            return
        if self.engine.applied and not self._pending and id(optimizer) not in self._stepped:
            self._release(optimizer)
            return
        if not module.automatic_optimization:
            raise RuntimeError(
                f"With manual optimization, call `{self._owner}.apply_gradient_transform_()` after the last "
                f"`manual_backward` before each `optimizer.step()`. Found no call at step {trainer.global_step}."
            )
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        if not self._hook_seen and any(gradient.any() for gradient in gradients):  # zeros are left by `zero_grad`
            raise RuntimeError(
                f"`{self._owner}.on_after_backward` should run: an override has to call super().on_after_backward(). "
                f"Found that it did not run at step {trainer.global_step}."
            )
        # `training_step` returned None for the last micro-batch: the optimizer uses the gradients of the earlier ones
        self.apply_(trainer, module)
        self._release(optimizer)

    def _release(self, optimizer: Optimizer) -> None:
        """Hand the gradients over to an optimizer, which steps next."""
        self._stepped.add(id(optimizer))
        self.engine.before_step_(optimizer)
        self.engine.abandon()

    def apply_(self, trainer: Trainer, module: LightningModule) -> None:
        """Apply the transform now, and log its statistics when the loggers are due."""
        if not module.automatic_optimization and not self._pending:
            raise RuntimeError(
                f"`{self._owner}.apply_gradient_transform_()` should be called once after the last `manual_backward`, "
                f"before the first `optimizer.step()` that uses it. Found no `manual_backward` since the last call, at "
                f"step {trainer.global_step}."
            )
        self.batch_start(trainer)
        self.engine.attach(*trainer.optimizers)  # they may have been replaced since the last window
        self.engine.apply_(loss_scale=_loss_scale(trainer, module))
        self._pending = False
        self._stepped.clear()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by the logger connector
        if trainer.is_last_batch or (every and (trainer.global_step + 1) % every == 0):
            module.log_dict(logged_statistics(self.engine))

    # ------------------------------------------------------------ checkpoints
    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the engine's state into a checkpoint, under one key, as plain numbers and tensors."""
        if self._engine is not None:
            checkpoint[KEY] = packed(self._engine, self.transform)
        self._gate.save(checkpoint)

    def load(self, checkpoint: dict[str, Any], trainer: Trainer | None) -> None:
        """Take the engine's state from a checkpoint, if it has one; the fit uses it when it starts."""
        if trainer is not None:
            self._gate.load(trainer, checkpoint)
        self._restored = {key: checkpoint[key] for key in (KEY, *self._gate.keys) if key in checkpoint}
        if (
            trainer is not None
            and trainer.state.fn == TrainerFn.FITTING
            and trainer.strategy.restore_checkpoint_after_setup  # as those that shard do
        ):
            self._resume(trainer)  # the fit has started


def _with_token_rows(transform: GradientTransform, trainer: Trainer, module: LightningModule) -> GradientTransform:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
    names = (f"`{type(data).__name__}`" if data is not None else "no data module", f"`{type(module).__name__}`")
    return with_token_rows(
        transform,
        lambda: next((each.tokenizer for each in (data, module) if getattr(each, "tokenizer", None) is not None), None),
        missing=f"the data module or the module has a `tokenizer`. Found {' and '.join(names)}, without one",
        report=rank_zero_info,
    )


def _for_search(transform: GradientTransform) -> GradientTransform:
    """Return a strategy for a search, whose trials may diverge, and need steps from the first window on."""
    transform = deepcopy(transform)
    for index, member in enumerate(transform.flattened()):
        if isinstance(member, SpikeSkip):
            member.max_in_a_row = sys.maxsize
        elif isinstance(member, SparseMask) and member.calibration_windows:
            # with a seed that no other mask of the chain has
            member.score, member.calibration_windows, member.seed = "random", 0, sys.maxsize - index
    return transform


class AdapterOwner:
    """The owner of an adapter, which forwards its hooks: `SparseGradModule` or `GradientTransformCallback`."""

    _loop_adapter: LightningAdapter


class _LeaveAsItWas(Callback):
    """A callback that closes an interrupted window: after an exception, a Trainer calls only hooks of callbacks."""

    def __init__(self, engine: GradientEngine, gate: Gate) -> None:
        self._engine, self._gate = engine, gate

    @classmethod
    def join(cls, trainer: Trainer, engine: GradientEngine, gate: Gate) -> None:
        """Close an engine's windows with the Trainer's callback for it, or with a new one."""
        if present := find_callback(trainer, cls):
            present._engine, present._gate = engine, gate
        else:  # first, so that no window is open when others handle an exception, for example with a checkpoint
            put_first(trainer, cls(engine, gate))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._engine.abandon()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._engine.abandon()
        self._gate.on_exception(trainer, pl_module, exception)


def count_steps(trainer: Trainer) -> int | None:
    """Return the optimizer steps of the whole fit, before it starts; see `steps_of`."""
    steps = steps_of(trainer)
    if trainer.ckpt_path:
        forget_loaders(trainer)
    return steps


def steps_of(trainer: Trainer) -> int | None:
    """Return the optimizer steps of the whole fit, or `None` if it has no end or its data have unknown length."""
    steps = trainer.estimated_stepping_batches
    batches, epochs = trainer.num_training_batches, trainer.max_epochs or -1
    for callback in callbacks_of(trainer):
        if is_a(callback, GradientAccumulationScheduler) and epochs > 0 and batches != float("inf"):
            # Lightning counts as if every epoch accumulated like the current one
            factors = [callback.get_accumulate_grad_batches(epoch) for epoch in range(epochs)]
            steps = sum(ceil(batches / factor) for factor in factors)
            steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    return int(steps) if steps not in {float("inf"), -1} else None


def _epoch_steps(trainer: Trainer) -> int:
    """Return the optimizer steps of an epoch, 1 if its length is not known."""
    batches = trainer.num_training_batches
    return ceil(batches / trainer.accumulate_grad_batches) if 0 < batches < float("inf") else 1


def _run_seed(trainer: Trainer) -> int:
    """Return the seed of the run: that of `seed_everything`, else torch's; rank 0's on every rank."""
    seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
    return int(trainer.strategy.broadcast(seed))


def _loss_scale(trainer: Trainer, module: LightningModule) -> Tensor | None:
    """Return the factor by which a gradient scaler multiplied the loss, without reading it on the host."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else scaler.scale(torch.ones((), device=module.device))
