"""`AccelerateAdapter`: a strategy in a training loop that is written with Hugging Face Accelerate."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import inside_wrapper
from lightning_sparsegrad.loops._accelerate import is_prepared
from lightning_sparsegrad.loops._explicit_adapter import ExplicitAdapter, optimizers_in, unprepared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from accelerate import Accelerator

    from lightning_sparsegrad.engine._nonfinite import NonFinite
    from lightning_sparsegrad.transforms.base import GradientTransform, Window

_BACKENDS = {  # that keep gradients elsewhere than at the parameters, or reduce them inside the step
    "DEEPSPEED": "FSDP2 in place of DeepSpeed",
    "FSDP": "FSDP2 in place of FSDP1, by `FullyShardedDataParallelPlugin(fsdp_version=2)`",
    "MEGATRON_LM": "FSDP2 in place of Megatron-LM",
    "XLA": "DistributedDataParallel in place of XLA, which reduces gradients inside the step",
}
_STEPPED_IN_BACKWARD = {"Lomo", "AdaLomo"}


class AccelerateAdapter(ExplicitAdapter):
    """An adapter that applies a strategy to the gradients of a loop written with Accelerate.

    It takes what `accelerator.prepare` returned. `accumulate` stands in place of `accelerator.accumulate(model)`, and
    `apply_` in place of `accelerator.clip_grad_norm_`; both follow `gradient_accumulation_steps`, also in the short
    last window of an epoch. The weights are those of a plain loop around `GradientEngine`, bit for bit. Under fp16,
    `apply_` unscales the gradients first, so that `accelerator.clip_grad_norm_` cannot be called in the same window.

    Accelerate is an extra: `pip install lightning-sparsegrad[accelerate]`.

    Args:
        accelerator: The `accelerate.Accelerator`.
        model: The model as `accelerator.prepare` returned it and as the loop calls it, compiled or not.
        optimizer: The optimizer, or several, as `accelerator.prepare` returned them; one alone under fp16.
        transform: The strategy.
        total_steps: Optimizer steps of the whole training; needed only by schedules over training.
        seed: Seed of the run, for strategies that have none of their own. The same on all processes.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`. With
            several processes this needs `DistributedDataParallelKwargs(find_unused_parameters=True)`.
        nonfinite: What to do with gradients that are not finite, see `GradientEngine`.

    Raises:
        ConfigurationError: If the model or an optimizer is not prepared, an optimizer needs a closure or holds no
            parameter of the model, Accelerate runs DeepSpeed, FSDP1, Megatron-LM or XLA, there is more than one
            optimizer under fp16, or the strategy cannot work on the model.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> from lightning_sparsegrad import AccelerateAdapter, GradDrop
        >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loader = torch.utils.data.DataLoader(torch.ones(3, 4))
        >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        >>> adapter = AccelerateAdapter(accelerator, model, optimizer, GradDrop(rate=0.5))
        >>> accelerator.register_for_checkpointing(adapter)  # so that `accelerator.save_state` holds it
        >>> for epoch in range(2):
        ...     for batch in loader:
        ...         with adapter.accumulate(epoch=epoch):
        ...             accelerator.backward(model(batch).square().mean())
        ...             adapter.apply_()  # does nothing before the last micro-batch of a window
        ...             optimizer.step()
        ...             optimizer.zero_grad()
        >>> adapter.engine.step  # 3 micro-batches are a window of 2 and a window of 1
        4
        >>> adapter.statistics["kept"]
        tensor(0.5000)
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        transform: GradientTransform,
        *,
        total_steps: int | None = None,
        seed: int = 0,
        skip_dropped: bool = True,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        from accelerate import Accelerator as Kind  # imported already by whoever has one

        if not isinstance(accelerator, Kind):
            raise ConfigurationError(
                f"Parameter `accelerator` should be an `accelerate.Accelerator`. "
                f"Found a `{type(accelerator).__name__}`."
            )
        _refuse_backend(accelerator)
        if not isinstance(model, nn.Module) or not is_prepared(model):
            raise unprepared("model", model, "accelerator.prepare")
        self._accelerator, self._model = accelerator, model
        super().__init__(
            model,
            [_inner(each) for each in optimizers_in(optimizer)],
            transform,
            wrapped_model=None,  # the engine knows the wrappers that Accelerate uses
            scaler=accelerator.scaler,
            total_steps=total_steps,
            seed=seed,
            skip_dropped=skip_dropped,
            nonfinite=nonfinite,
        )

    @contextmanager
    def accumulate(self, *, epoch: int | None = None) -> Iterator[Window]:
        """Open the window of the next optimizer step around one micro-batch, within `accelerator.accumulate(model)`.

        With several models, use `with adapter.window(), accelerator.accumulate(model, other)`.

        Args:
            epoch: Epochs done before, from 0; needed only by strategies that depend on it.
        """
        with self.window(epoch=epoch) as window, self._accelerator.accumulate(self._model):
            yield window

    @override
    def apply_(self) -> None:
        """Apply the transform at the last micro-batch of a window, and close the window; before it, do nothing.

        Under fp16 the gradients are unscaled first. It is called in each micro-batch, or where
        `accelerator.sync_gradients` is true, before `optimizer.step()`.
        """
        if self._accelerator.sync_gradients or self._engine.current is None:
            super().apply_()

    @override
    def _apply_(self) -> None:
        if self._scaler is None:
            self._engine.apply_()
            return
        self._scaler.unscale_(self._optimizers[0])
        self._engine.apply_(unscaled=True)

    @property
    @override
    def _is_first_process(self) -> bool:
        return bool(self._accelerator.is_main_process)


def _refuse_backend(accelerator: Accelerator) -> None:
    """Refuse backends whose gradients are not whole, at the parameters, before the step."""
    backend = accelerator.distributed_type.value
    if backend in _BACKENDS and not accelerator.is_fsdp2:
        raise ConfigurationError(
            f"Parameter `accelerator` should leave each parameter its gradient: use {_BACKENDS[backend]}. "
            f"Found `distributed_type = {backend}`."
        )


def _inner(optimizer: object) -> Optimizer:
    """Return the optimizer of torch inside one that Accelerate has prepared."""
    if not isinstance(optimizer, Optimizer) or not is_prepared(optimizer):
        raise unprepared("optimizer", optimizer, "accelerator.prepare")
    inner = inside_wrapper(optimizer)
    kind = type(inner).__name__
    if kind in _STEPPED_IN_BACKWARD:
        raise ConfigurationError(
            f"Parameter `optimizer` should change weights in its step. Found `{kind}`, which does in the backward pass."
        )
    return inner
