"""The base of adapters that a loop calls by itself, before the first forward pass of a window and before a step."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from weakref import WeakMethod

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from lightning_sparsegrad.engine._nonfinite import NonFinite
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import is_unscaled
from lightning_sparsegrad.loops._optimizers import refuse_closures
from lightning_sparsegrad.loops._strategy_state import packed, restore
from lightning_sparsegrad.loops._untrained import warn_of_untrained
from lightning_sparsegrad.loops._warmups import report_long_warmups
from lightning_sparsegrad.transforms.base import GradientTransform, Window


class ExplicitAdapter(ABC):
    """An abstract adapter that opens a window when the loop asks it to, and applies the transform before a step.

    Args:
        model: The model that names are relative to.
        optimizers: The optimizers of torch that the loop steps, without wrappers.
        transform: The strategy.
        wrapped_model: The model as the loop calls it, where that is another module than `model`.
        scaler: The gradient scaler of the loop, if it has one.
        total_steps: Optimizer steps of the whole training, see `GradientEngine`.
        seed: Seed of the run, see `GradientEngine`.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`.
        nonfinite: What to do with gradients that are not finite, see `GradientEngine`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        transform: GradientTransform,
        *,
        wrapped_model: nn.Module | None,
        scaler: GradScaler | None,
        total_steps: int | None,
        seed: int,
        skip_dropped: bool,
        nonfinite: NonFinite,
    ) -> None:
        refuse_closures(optimizers)
        self._optimizers = list(optimizers)
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._transform = transform
        self._engine = GradientEngine(
            model,
            transform,
            wrapped_model=wrapped_model,
            total_steps=total_steps,
            seed=seed,
            skip_dropped=skip_dropped,
            nonfinite=nonfinite,
        )
        self._refuse_other_parameters()
        self._steps: dict[int, int] = {}  # by the id of an optimizer: the windows applied before its last step
        self._warned = False
        held = WeakMethod(self._require_applied)
        for each in optimizers:  # before the engine's hooks: these act on gradients that are ready
            each.register_step_pre_hook(lambda stepped, *_: check(stepped) if (check := held()) is not None else None)
        self._engine.attach(*optimizers)
        report_long_warmups(self._engine, count=lambda: total_steps, report=self._warn)
        if total_steps is not None:
            warn_of_untrained(self._engine, count=lambda: total_steps, epoch_steps=lambda: 1, warn=self._warn)

    # ------------------------------------------------------------ windows
    def open(self, *, epoch: int | None = None) -> Window:
        """Open the window of the next optimizer step; within that window, at its later micro-batches, do nothing.

        A window that goes on in the next epoch stays one of the epoch in which it began, and so do the gradients that
        are dropped in it; one without gradients, whose step never happened, is closed first. Without a `with` block, an
        exception before `apply_` leaves `requires_grad` off for tensors that the strategy drops.

        Args:
            epoch: Epochs done before, from 0; needed only by strategies that depend on it.

        Returns:
            The open window.

        Raises:
            ConfigurationError: If another engine has opened a window on the same parameters meanwhile.
        """
        window = self._engine.current
        if window is not None and window.step == self._engine.step and (window.epoch == epoch or self._has_begun()):
            return window
        self._engine.abandon()
        return self._engine.open(epoch=epoch)

    def _has_begun(self) -> bool:
        return any(tensor.grad is not None for tensor in self._engine.parameters.tensors.values())

    @contextmanager
    def window(self, *, epoch: int | None = None) -> Iterator[Window]:
        """Open the window as `open` does, around one micro-batch or all; an exception inside closes it.

        It stays open at the end of the block if `apply_` was not called, for the next micro-batch.

        Args:
            epoch: Epochs done before, from 0; needed only by strategies that depend on it.
        """
        opened = self.open(epoch=epoch)
        try:
            yield opened
        except BaseException:
            self._engine.abandon()
            raise

    def apply_(self) -> None:
        """Apply the transform in place to all gradients of the model, and close the window.

        It is called once per window, after the last backward pass and before `optimizer.step()`, in place of a clip;
        another clip may follow it.

        Raises:
            RuntimeError: If no window is open, or something has unscaled the gradients before, as a clip does.
            ConfigurationError: If another engine has opened a window on the same parameters meanwhile; and as
                `GradientEngine.apply_`.
            FloatingPointError: If a gradient is not finite, with `nonfinite="raise"`.
        """
        if self._engine.current is None:
            self._refuse_closed()
        try:
            self._refuse_unscaled()
            self._apply_()
        finally:
            self._engine.abandon()

    @abstractmethod
    def _apply_(self) -> None:
        """Apply the transform, in true units."""

    # ------------------------------------------------------------ state
    @property
    def engine(self) -> GradientEngine:
        """The engine, for example for its `meter`."""
        return self._engine

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Statistics of the last window by name, see `GradientEngine.statistics`."""
        return self._engine.statistics

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run: that of the engine with its step, and the strategy as text.

        Save it between two windows; the gradients of an open one are in no checkpoint.
        """
        return packed(self._engine, self._transform)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; a strategy that has changed starts at the resumed step, with a warning.

        Raises:
            ConfigurationError: If the state is not one of an engine.
        """
        self._engine.abandon()
        restore(self._engine, self._transform, state, warn=self._warn)

    @property
    @abstractmethod
    def _is_first_process(self) -> bool:
        """Whether this process writes the messages of a run."""

    def _warn(self, message: str) -> None:
        if self._is_first_process:
            warnings.warn(message, stacklevel=4)

    # ------------------------------------------------------------ refusals
    def _require_applied(self, optimizer: Optimizer) -> None:
        """Refuse a step within a window: it would use gradients as they were computed; warn of one outside of any."""
        before, now = self._steps.get(id(optimizer)), self._engine.step
        self._steps[id(optimizer)] = now
        window = self._engine.current
        if window is not None:
            self._engine.abandon()
            raise RuntimeError(
                f"`{type(self).__name__}.apply_()` should be called in each window before `optimizer.step()`. "
                f"Found no call at step {window.step}."
            )
        if before == now and not self._warned:
            self._warned = True
            self._warn(
                f"`{type(self).__name__}.apply_()` should be called before each `optimizer.step()`. Found two steps of "
                f"`{_name(optimizer)}` after {now} windows: the second uses gradients as they were computed."
            )

    def _refuse_closed(self) -> NoReturn:
        """Refuse to apply the transform without a window, or in one that another engine has closed."""
        with suppress(RuntimeError):
            self._engine.apply_()  # it knows which
        raise RuntimeError(
            f"`{type(self).__name__}.apply_()` should be called once in a window that the adapter has opened, after "
            f"the last backward pass. Found none open, after {self._engine.step} of them."
        )

    def _refuse_unscaled(self) -> None:
        """Refuse gradients that something has unscaled: it may have clipped them too, before any mask."""
        if self._scaler is not None and any(is_unscaled(self._scaler, each) for each in self._optimizers):
            raise RuntimeError(
                f"`{type(self).__name__}.apply_()` should be called before any clip and before gradients are unscaled. "
                f"Found unscaled gradients at step {self._engine.step}."
            )

    def _refuse_other_parameters(self) -> None:
        """Refuse optimizers of other models; under loss scaling, several, and parameters that none unscales."""
        held = [{id(tensor) for group in each.param_groups for tensor in group["params"]} for each in self._optimizers]
        names = {id(tensor): name for name, tensor in self._engine.parameters.tensors.items()}
        for optimizer, tensors in zip(self._optimizers, held, strict=True):
            if tensors.isdisjoint(names):
                raise ConfigurationError(
                    f"Parameter `optimizer` should hold parameters of the model. Found none in `{_name(optimizer)}`: "
                    f"was the model copied or sharded after its optimizer was created?"
                )
        if self._scaler is None:
            return
        if len(self._optimizers) > 1:
            raise ConfigurationError(
                f"Parameter `optimizer` should be one optimizer under loss scaling, whose scale is updated after each "
                f"optimizer's step. Found {len(self._optimizers)}."
            )
        trained = self._engine.parameters.tensors.items()
        if left := [name for name, tensor in trained if tensor.requires_grad and id(tensor) not in held[0]]:
            raise ConfigurationError(
                f"Parameter `optimizer` should hold every parameter that trains under loss scaling, or its gradient "
                f"stays scaled. Found `{left[0]}` in none: set its `requires_grad` to False."
            )


def optimizers_in(optimizer: object) -> list[object]:
    """Return the optimizers that were given, as one or as a sequence of at least one."""
    several = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    if not several:
        raise ConfigurationError(f"Parameter `optimizer` should be one optimizer or several. Found `{optimizer!r}`.")
    return several


def unprepared(parameter: str, value: object, prepare: str) -> ConfigurationError:
    """Return the error for a model or an optimizer that a loop has not prepared."""
    kind = "module" if parameter == "model" else "optimizer"
    return ConfigurationError(
        f"Parameter `{parameter}` should be the {kind} that `{prepare}` returned. Found a `{_name(value)}`."
    )


def _name(value: object) -> str:
    return type(value).__name__
