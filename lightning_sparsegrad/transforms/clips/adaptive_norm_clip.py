"""The base class of clips whose thresholds are learnt from the norms of earlier steps."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from warnings import warn

import torch
from torch import Tensor

from lightning_sparsegrad.components import Component, ComponentSpec, NamedParameters, check_components, partition
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.clips._lessons import require_tensor, teaches, widened
from lightning_sparsegrad.transforms.clips.component_clip import ComponentClip

State = Mapping[str, Tensor]

_FAR, _PATIENCE = 1000.0, 16
_BOOKS = ("count", "far")  # the tensors that the base class keeps


class AdaptiveNormClip(ComponentClip):
    r"""Base class of clips that learn the threshold of each component from its norms in earlier steps.

    .. math:: \tilde g_c = g_c \cdot \frac{\tau_c}{\lVert g_c \rVert} \quad \text{if } \lVert g_c \rVert > \tau_c

    for every component :math:`c`. A component within its threshold keeps its bits. Norms are in true gradient units.

    A component learns only from a step that happened: a window that a gradient scaler skips teaches nothing. It learns
    only from a norm between 1e-19 and 1e19, whose square float32 can hold: zero, an overflow and NaN teach nothing, and
    do not count as steps of a warm-up. If its norms are more than 1000 times above or below what it has learnt, for 16
    steps in a row, it starts anew, as if it had learnt nothing.

    A subclass describes the state of components by tensors whose first dimension is the component. `count`, the number
    of steps that a component has learnt from, is always among them.

    Attributes:
        warmup_steps: Number of steps that a component learns from before its threshold counts.

    Args:
        components: What a component is. `"global"`: all gradients together. For the others see `ComponentNormClip`; a
            mapping of globs to names groups parameters by role: `{"*.query.*": "queries", "*": "others"}`.
    """

    learns = True
    warmup_steps: int = 0

    def __init__(self, components: ComponentSpec) -> None:
        super().__init__()
        check_components(components)
        self.components = components
        self._fresh: dict[str, Tensor] = {}
        self._state: dict[str, Tensor] = {}
        self._norms_seen = self._norms_left = torch.ones(0)  # in this window, of all components; 0 teaches nothing
        self._parameters_seen: frozenset[str] = frozenset()

    # ------------------------------------------------------------ what a subclass defines
    @abstractmethod
    def fresh(self) -> Mapping[str, Tensor]:
        """Return the state of a component that has learnt nothing, by name, `count` apart: float64 or int64 tensors."""

    @abstractmethod
    def thresholds_of(self, state: State, norms: Tensor, window: Window) -> Tensor:
        """Return the thresholds of all components in a window, in true gradient units.

        Args:
            state: The state of all components: for each tensor of `fresh`, one with a first dimension of components.
            norms: Their norms in true gradient units, of shape (components,); 0 for a component without a gradient.
            window: The window.
        """

    @abstractmethod
    def after(self, state: State, norms: Tensor, norms_left: Tensor) -> State:
        """Return the state after a step, `count` apart, as if all components had learnt from it.

        Args:
            state: The state before.
            norms: The norms before the clip, of shape (components,).
            norms_left: The norms after it.
        """

    @abstractmethod
    def level(self, state: State) -> Tensor:
        """Return what each component takes for an ordinary norm, of shape (components,); see above for starting anew.

        It may be any number where `count` is 0, and is NaN for a component that never starts anew.
        """

    def as_fresh(self, norms: Tensor) -> Tensor:
        """Return norms as a component that has learnt nothing would learn them, to see whether they are far above."""
        return norms

    # ------------------------------------------------------------ a window
    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        self.scaled_components = partition(parameters, self.components)
        self._start(next((tensor.device for tensor in parameters.tensors.values()), torch.device("cpu")))

    def clip(self, norms: Tensor, components: Sequence[Component], window: Window) -> tuple[Tensor, Tensor]:
        self._move_to(norms.device)
        seen = _rearranged(widened(norms, norms.device), given=components, wanted=self.scaled_components)
        thresholds = self.thresholds_of(self._state, seen, window)
        if thresholds.shape != seen.shape:
            raise ConfigurationError(
                f"`{type(self).__name__}.thresholds_of` should return a threshold for each component, of shape "
                f"{tuple(seen.shape)}. Found shape {tuple(thresholds.shape)}."
            )
        self._norms_seen, self._norms_left = seen, torch.minimum(seen, thresholds)
        self._parameters_seen = frozenset(part.parameter for component in components for part in component.parts)
        within = (seen <= thresholds) | (thresholds == torch.inf)
        factors = torch.where(within, 1.0, thresholds / seen)  # NaN for an undefined norm
        present = partial(_rearranged, given=self.scaled_components, wanted=components)
        return present(thresholds).to(norms), present(factors).to(norms)

    def commit_(self, names: frozenset[str], happened: Tensor) -> None:
        norms = self._norms_seen
        if not len(norms):
            return
        if not self._parameters_seen <= names:  # others are held by another optimizer, or were dropped
            here = [
                not names.isdisjoint(part.parameter for part in component.parts) for component in self.scaled_components
            ]
            zero = torch.zeros_like(norms[0])
            norms = torch.stack([norm if held else zero for norm, held in zip(norms.unbind(), here, strict=True)])
        taught = happened.to(norms.device) & teaches(norms) & teaches(self._norms_left)
        count, level = self._state["count"], self.level(self._state)
        is_far = (count > 0) & ((self.as_fresh(norms) > _FAR * level) | (_FAR * norms < level))
        far = torch.where(is_far, self._state["far"] + 1, 0)
        after = self.after(self._state, norms, self._norms_left)
        if after.keys() != (kept := self._fresh.keys() - {*_BOOKS}):
            raise ConfigurationError(
                f"`{type(self).__name__}.after` should return the tensors of `fresh`, {sorted(kept)}. "
                f"Found {sorted(after)}."
            )
        learnt = {"count": count + 1, "far": far, **after}
        for name, value in self._state.items():
            shape = (-1, *[1] * (value.ndim - 1))
            new = torch.where((far >= _PATIENCE).view(shape), self._fresh[name], learnt[name])
            self._state[name] = torch.where(taught.view(shape), new, value)
        self._norms_seen = torch.where(taught, 0.0, self._norms_seen)  # learnt once, whatever optimizer steps next

    def forget_(self) -> None:
        self._norms_seen = self._norms_left = torch.ones(0)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Those of all clips of component norms, and `threshold/NAME`."""
        return {**super().statistics, **{f"threshold/{name}": each for name, each in self.thresholds.items()}}

    # ------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        names = [component.name for component in self.scaled_components]
        return {"class": type(self).__name__, "components": names, **self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names, kind = [component.name for component in self.scaled_components], type(self).__name__
        if state.get("class") != kind:
            warn(f"`{self!r}` starts as if it had learnt nothing. Found the state of another strategy.", stacklevel=2)
            return
        before = list(state.get("components", ()))
        rows = {name: row for row, name in enumerate(before)}
        known = [row for row, name in enumerate(names) if name in rows]
        if len(known) < max(len(names), len(before)):
            warn(
                f"`{self!r}` has learnt about other components: {len(names) - len(known)} of {len(names)} start as if "
                f"it had learnt nothing, {len(before) - len(known)} of those in the state are dropped.",
                stacklevel=2,
            )
        there = [rows[names[row]] for row in known]
        for name, value in self._fresh.items():
            restored = require_tensor(state, name, (len(before), *value.shape))
            self._state[name] = self._rows_of(value)
            self._state[name][known] = restored[there].to(value)

    def _rows_of(self, value: Tensor) -> Tensor:
        """Return the state of all components, each as fresh as a given one."""
        return value.expand(len(self.scaled_components), *value.shape).clone()

    def _start(self, device: torch.device) -> None:
        fresh = dict(self.fresh())
        if taken := sorted({*_BOOKS} & fresh.keys()):
            raise ConfigurationError(
                f"`{type(self).__name__}.fresh` should use other names than {list(_BOOKS)}, which are kept anyway. "
                f"Found {taken}."
            )
        fresh |= dict.fromkeys(_BOOKS, torch.zeros((), dtype=torch.int64))
        self._fresh = {name: widened(value, device) for name, value in fresh.items()}
        self._state = {name: self._rows_of(value) for name, value in self._fresh.items()}

    def _move_to(self, device: torch.device) -> None:
        before = self._state["far"].device
        if before.type == "meta" != device.type:
            self._start(device)  # there was nothing to learn from on the meta device
        elif before != device:
            for tensors in (self._fresh, self._state):
                tensors.update({name: widened(value, device) for name, value in tensors.items()})


def _rearranged(values: Tensor, *, given: Sequence[Component], wanted: Sequence[Component]) -> Tensor:
    """Return the values of the components that are wanted, one for each; 0 for those not given."""
    if len(given) == len(wanted):
        return values
    by_name = dict(zip((component.name for component in given), values.unbind(), strict=True))
    zero = torch.zeros_like(values[0])
    return torch.stack([by_name.get(component.name, zero) for component in wanted])
