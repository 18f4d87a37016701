"""Steps: when an optimizer has stepped, and what strategies do before it, after it, and while nothing steps yet."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakMethod, WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window


class Steps:
    """Calls strategies in the phases that are not the gradient's: calibration, and around the step.

    Args:
        transform: The engine's transform.
        parameters: The parameters of the model.

    Attributes:
        need_optimizer: Whether a strategy acts around the step.
    """

    def __init__(self, transform: GradientTransform, parameters: NamedParameters) -> None:
        members = {id(member): member for member in transform.flattened()}.values()  # each once
        self._calibrate = [member for member in members if "calibration" in member.phases]
        self._update = [member for member in members if "update" in member.phases]
        self._learn = [member for member in members if member.learns]
        self.need_optimizer = bool(self._update or self._learn)
        self._weights: Mapping[str, Tensor] = parameters.tensors
        self._names = {id(tensor): name for name, tensor in self._weights.items()}
        self._followed: WeakSet[Optimizer] = WeakSet()
        self._window: Window | None = None  # the last one whose gradients an optimizer may step with
        self._left: frozenset[str] = frozenset()  # what has a gradient then
        # optimizers, which are known by their groups: a wrapper has those of what it wraps
        self._ready: set[int] = set()  # before whose step strategies have acted
        self._done: set[int] = set()  # which have stepped
        self._inside: dict[int, bool] = {}  # which are in a step, and whether strategies have acted in it

    def follow(self, optimizer: Optimizer) -> None:
        """Have strategies hear of each step of an optimizer; of one that is followed already, nothing changes.

        Raises:
            ConfigurationError: If it is no optimizer.
        """
        if not isinstance(optimizer, Optimizer):
            raise ConfigurationError(
                f"Parameter `optimizers` should be optimizers. Found a `{type(optimizer).__name__}`."
            )
        if self.need_optimizer and optimizer not in self._followed:
            optimizer.register_step_pre_hook(_weak(self._before))
            optimizer.register_step_post_hook(_weak(self._after))
            self._followed.add(optimizer)

    def open(self) -> None:
        """Forget what no step has committed: a window begins."""
        self._window = None
        for member in self._learn:
            member.forget_()

    def calibrating(self, window: Window) -> bool:
        """Return whether a strategy calibrates in a window, in which then nothing steps."""
        return bool(self._calibrate) and any(member.calibrates(window) for member in self._calibrate)

    def calibrate_(self, gradients: Gradients, window: Window) -> None:
        """Show the gradients to the strategies that calibrate, and take them all out.

        Raises:
            ConfigurationError: Under loss scaling, where an optimizer without gradients cannot be stepped.
        """
        if gradients.loss_scale is not None:
            names = ", ".join(f"`{member!r}`" for member in self._calibrate)
            raise ConfigurationError(
                f"Windows in which {names} calibrate should be computed without loss scaling, in float32 or bfloat16: "
                f"nothing steps in them. Found a loss scale at step {window.step}."
            )
        for member in self._calibrate:
            if member.calibrates(window):
                member.calibrate_(gradients, window)
        gradients.lose(list(gradients), by=self)

    def applied(self, gradients: Gradients, window: Window) -> None:
        """Note that the gradients of a window are ready for the step.

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
            return  # with a closure, the step begins before the gradients are there
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
        self._followed = WeakSet()  # copies of optimizers have no hooks: they are attached, too
        self._names = {id(tensor): name for name, tensor in self._weights.items()}

    def _before(self, optimizer: Optimizer) -> None:
        self._inside.pop(id(optimizer.param_groups), None)
        with torch.no_grad():
            self.before_(optimizer)
        self._inside[id(optimizer.param_groups)] = False

    def _after(self, optimizer: Optimizer) -> None:
        key = id(optimizer.param_groups)
        self._inside.pop(key, None)
        if self._window is None or key in self._done:
            return  # one step is one; an optimizer may be followed for other engines, and in a wrapper
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

    def hook(optimizer: Optimizer, *_: Any) -> None:
        if (alive := held()) is not None:
            alive(optimizer)

    return hook


def _happened(optimizer: Optimizer, device: torch.device) -> Tensor:
    """Return whether a step that was asked for has changed the weights, as a 0-d boolean tensor.

    A fused optimizer is stepped under loss scaling also when gradients have overflowed, and then does nothing.
    """
    overflows = getattr(optimizer, "found_inf", None)  # set by `GradScaler` for the time of the step
    return torch.ones((), dtype=torch.bool, device=device) if overflows is None else overflows.reshape(()) == 0
