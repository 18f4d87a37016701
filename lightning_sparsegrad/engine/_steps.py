"""Optimizer steps: what strategies do before a step, after it, and while nothing steps yet."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakMethod, WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.engine._refusals import refuse_capture
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import eagerly, inside_wrapper
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window


class Steps:
    """The calls of strategies in the calibration phase, and before and after a step.

    Args:
        transform: The engine's transform.
        parameters: The parameters of the model.

    Attributes:
        need_optimizer: Whether a strategy acts around the step.
    """

    def __init__(self, transform: GradientTransform, parameters: NamedParameters) -> None:
        self._take(transform)
        self._weights: Mapping[str, Tensor] = parameters.tensors
        self._names = {id(tensor): name for name, tensor in self._weights.items()}
        self._followed: WeakSet[Optimizer] = WeakSet()
        self._window: Window | None = None  # the last window whose gradients an optimizer may use
        self._left: frozenset[str] = frozenset()  # the parameters with a gradient in it
        # optimizers, identified by their groups, which a wrapper shares with the optimizer it wraps:
        self._ready: set[int] = set()  # strategies have acted before their step
        self._done: set[int] = set()  # they have stepped
        self._inside: dict[int, bool] = {}  # they are inside a step; whether strategies have acted in it

    def follow(self, optimizer: Optimizer) -> None:
        """Call strategies at each step of an optimizer, or of the one in a wrapper; once, if it is called again.

        Raises:
            ConfigurationError: If it is not an optimizer, or changes weights outside its steps.
        """
        if not isinstance(optimizer, Optimizer):
            raise ConfigurationError(
                f"Parameter `optimizers` should be optimizers. Found a `{type(optimizer).__name__}`."
            )
        optimizer = inside_wrapper(optimizer)
        if self._update and callable(getattr(optimizer, "eval", None)):
            names = ", ".join(f"`{member!r}`" for member in self._update)
            raise ConfigurationError(
                f"Optimizers should change weights in their steps alone for {names}. "
                f"Found `{type(optimizer).__name__}`, which also does in its method `eval`, as schedule-free ones do."
            )
        if self.need_optimizer and optimizer not in self._followed:
            optimizer.register_step_pre_hook(_weak(self._before))
            optimizer.register_step_post_hook(_weak(self._after))
            self._followed.add(optimizer)

    def _take(self, transform: GradientTransform) -> None:
        self._transform = transform
        members = {id(member): member for member in transform.flattened()}.values()  # each member once
        self._calibrate = [member for member in members if "calibration" in member.phases]
        self._update = [member for member in members if "update" in member.phases]
        self._learn = [member for member in members if member.learns]
        self.need_optimizer = bool(self._update or self._learn)

    def open(self, transform: GradientTransform) -> None:
        """Begin a window: discard what no step has committed.

        Args:
            transform: The engine's transform now; somebody may have replaced it.
        """
        if transform is not self._transform:
            self._take(transform)
        self._window = None
        for member in self._learn:
            member.forget_()

    def calibrating(self, window: Window) -> bool:
        """Return whether a strategy calibrates in a window, so that nothing steps in it."""
        return bool(self._calibrate) and any(member.calibrates(window) for member in self._calibrate)

    def require_steps_behind(self, window: Window) -> None:
        """Raise a `ConfigurationError` if a strategy still calibrates in the last window of a training."""
        for member in self._calibrate:
            if member.calibrates(window):
                raise ConfigurationError(
                    f"`{member!r}` should calibrate in fewer windows than the {window.step + 1} steps of the training: "
                    f"no optimizer steps in them. Found none behind them: calibrate in fewer, as by "
                    f"`SparseMask(calibration_windows=...)`, or train longer."
                )

    def calibrate_(self, gradients: Gradients, window: Window) -> None:
        """Calibrate strategies on the gradients, then drop all gradients.

        Raises:
            ConfigurationError: Under loss scaling, where an optimizer cannot step without gradients.
        """
        if gradients.loss_scale is not None:
            names = ", ".join(f"`{member!r}`" for member in self._calibrate)
            raise ConfigurationError(
                f"Windows in which {names} calibrate should be computed without loss scaling, in float32 or bfloat16: "
                f"no optimizer steps in them. Found a loss scale at step {window.step}."
            )
        for member in self._calibrate:
            if member.calibrates(window):
                member.calibrate_(gradients, window)
        gradients.lose(list(gradients), by=self)

    def applied(self, gradients: Gradients, window: Window) -> None:
        """Note that the gradients of a window are ready for the optimizer step.

        Raises:
            ConfigurationError: If strategies act around the step, and no optimizer is followed.
        """
        if not self.need_optimizer:
            return
        if not self._followed:
            members = {id(member): member for member in [*self._learn, *self._update]}.values()
            names = ", ".join(f"`{member!r}`" for member in members)
            raise ConfigurationError(
                f"Optimizers should be attached for {names}, by `GradientEngine.attach(optimizer)`. Found none."
            )
        self._window, self._left = window, frozenset(gradients)
        self._ready.clear()
        self._done.clear()

    def before_(self, optimizer: Optimizer) -> None:
        """Call strategies of the update phase once before the step of an optimizer.

        Raises:
            ConfigurationError: If the step calls its closure again.
        """
        key = id(optimizer.param_groups)
        if self._window is None or key in self._ready:
            return  # with a closure, the step begins before the gradients exist
        if self._update and self._inside.get(key):
            names = ", ".join(f"`{member!r}`" for member in self._update)
            raise ConfigurationError(
                f"Optimizers should call their closure once in a step for {names}. "
                f"Found two calls by `{type(optimizer).__name__}`."
            )
        self._ready.add(key)
        if key in self._inside:
            self._inside[key] = True
        weights = self._held_by(optimizer) if self._update else {}
        for member in self._update:
            member.before_step_(weights, self._window)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_followed": None, "_window": None, "_names": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._followed = WeakSet()  # copies of optimizers have no hooks and must be attached again
        self._names = {id(tensor): name for name, tensor in self._weights.items()}

    def _before(self, optimizer: Optimizer) -> None:
        refuse_capture("The step of an optimizer that `GradientEngine.attach` follows")
        self._inside.pop(id(optimizer.param_groups), None)
        with torch.no_grad():
            self.before_(optimizer)
        self._inside[id(optimizer.param_groups)] = False

    def _after(self, optimizer: Optimizer) -> None:
        key = id(optimizer.param_groups)
        self._inside.pop(key, None)
        if self._window is None or key in self._done:
            return  # already handled: an optimizer may also be followed by other engines, or inside a wrapper
        if self._update and key not in self._ready:
            raise RuntimeError(
                "GradientEngine.before_step_(optimizer) should be called at the end of a closure. Found no call."
            )
        self._done.add(key)
        weights = self._held_by(optimizer)
        happened = _happened(optimizer, next(iter(weights.values())).device if weights else torch.device("cpu"))
        with torch.no_grad():
            for member in self._learn:
                member.commit_(self._left & weights.keys(), happened)
            for member in self._update:
                member.after_step_(weights, self._window, happened)

    def _held_by(self, optimizer: Optimizer) -> dict[str, Tensor]:
        tensors = (tensor for group in optimizer.param_groups for tensor in group["params"])
        names = (self._names.get(id(tensor)) for tensor in tensors)
        return {name: self._weights[name] for name in names if name is not None}


def _weak(method: Callable[[Optimizer], None]) -> Callable[..., None]:
    """Return a hook that does not keep the owner of a method alive."""
    held = WeakMethod(method)

    @eagerly  # as windows are
    def hook(optimizer: Optimizer, *_: Any) -> None:
        if (alive := held()) is not None:
            alive(optimizer)

    return hook


def _happened(optimizer: Optimizer, device: torch.device) -> Tensor:
    """Return whether a step has changed the weights, as a 0-d boolean tensor.

    Under loss scaling, a fused optimizer is stepped even if gradients overflowed, and then does nothing.
    """
    overflows = getattr(optimizer, "found_inf", None)  # set by `GradScaler` during the step
    return torch.ones((), dtype=torch.bool, device=device) if overflows is None else overflows.reshape(()) == 0
