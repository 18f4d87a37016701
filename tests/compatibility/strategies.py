"""Strategies as users wrote them for 0.1, with what 0.1 called public: these classes are not to be changed."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import torch
from lightning_sparsegrad.transforms.norm_clip import NormClip  # type: ignore[import-not-found]  # as 0.1 named it
from torch import Tensor

from lightning_sparsegrad import Constant, GradientTransform, HeadOnly, LayerGradDrop, Schedule
from lightning_sparsegrad.components import Component, NamedParameters, Part, find_layers
from lightning_sparsegrad.transforms import Gradients, Window


class RandomBlocks(GradientTransform):
    """Drops blocks by a hash of its own, says so before the forward pass, and works on shards."""

    handles_shards = True

    def __init__(self, *, seed: int | None = None) -> None:
        self.seed = seed
        self._blocks: list[frozenset[str]] = []
        self._kept = (0, 0)

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        return ((type(self).__name__, self.seed),)

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        layers = find_layers(parameters)
        self._blocks = [layers.within(frozenset({depth})) for depth in range(layers.count)]

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
        return later | self._drawn(window)

    def apply_(self, gradients: Gradients, window: Window) -> None:
        before = gradients.numel()
        gradients.drop(self._drawn(window))
        self._kept = (gradients.numel(), before)

    @property
    def statistics(self) -> dict[str, Tensor]:
        kept, of = self._kept
        return {"kept": torch.tensor(kept / max(of, 1))}

    def _drawn(self, window: Window) -> frozenset[str]:
        seed = window.seed if self.seed is None else self.seed
        draws = [blake2b(f"{seed} {window.step} {index}".encode()).digest()[0] for index in range(len(self._blocks))]
        return frozenset().union(*(block for block, draw in zip(self._blocks, draws, strict=True) if draw < 128))


class WatchedLayerGradDrop(LayerGradDrop):
    """Adds up the sizes of all gradients, also of those that it drops then."""

    def __init__(self, rate: float | Schedule, *, seed: int | None = None) -> None:
        super().__init__(rate, seed=seed)
        self.total = 0.0

    def apply_(self, gradients: Gradients, window: Window) -> None:
        scale = 1.0 if gradients.loss_scale is None else float(gradients.loss_scale)
        self.total += sum(float(gradient.double().abs().sum()) for gradient in gradients.values()) / scale
        super().apply_(gradients, window)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


class TalliedLayerGradDrop(LayerGradDrop):
    """Counts what is left, which lets the work on the rest be skipped: it says so anew, as it has an `apply_`."""

    handles_shards = True

    def __init__(self, rate: float | Schedule, *, seed: int | None = None) -> None:
        super().__init__(rate, seed=seed)
        self.tally: dict[str, int] = {}

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
        return super().skippable(window, later)

    def apply_(self, gradients: Gradients, window: Window) -> None:
        super().apply_(gradients, window)
        for name in gradients:
            self.tally[name] = self.tally.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        return {"tally": dict(self.tally)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tally = dict(state["tally"])


class HeadOnlyAtFirst(HeadOnly):
    """Trains the head alone for some steps, then every other layer."""

    def __init__(self, *, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def dropped_depths(self, window: Window) -> frozenset[int]:
        everything = super().dropped_depths(window)
        if window.step < self.steps:
            return everything
        return frozenset(depth for depth in everything if (depth + window.step) % 2)


class EverySecondStep(GradientTransform):
    """Holds another strategy, and applies it in the windows of even steps only."""

    def __init__(self, inner: GradientTransform) -> None:
        self.inner = inner
        self.bounds = inner.bounds

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.inner.bind(parameters, total_steps=total_steps)

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
        return later if window.step % 2 else self.inner.skippable(window, later)

    def apply_(self, gradients: Gradients, window: Window) -> None:
        if window.step % 2 == 0:
            self.inner.apply_(gradients, window)

    def flattened(self) -> Iterator[GradientTransform]:
        return self.inner.flattened()

    @property
    def schedules(self) -> Sequence[Schedule]:
        return self.inner.schedules

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        return self.inner.seeds

    @property
    def needs_total_steps(self) -> bool:
        return self.inner.needs_total_steps

    @property
    def statistics(self) -> dict[str, Tensor]:
        return self.inner.statistics

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


class WeightsClip(NormClip):  # type: ignore[misc]
    """Clips the weights below the head together and each tensor of the head by itself; leaves other biases alone."""

    def __init__(self, max_norm: float | Schedule, *, head_norm: float, norm_type: float = 2.0) -> None:
        super().__init__(max_norm, norm_type=norm_type)
        self.head_norm = Constant(head_norm)

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.max_norm, self.head_norm)

    def resolve(self, parameters: NamedParameters) -> list[tuple[Component, Schedule]]:
        head = [(Component(name, (Part(name),)), self.head_norm) for name in parameters.select("head", "*head.*")]
        weights = tuple(Part(name) for name in parameters if name.endswith("weight") and "head." not in name)
        return [(Component("body", weights), self.max_norm), *sorted(head, key=lambda pair: pair[0].name)]


class UnitwiseClip(GradientTransform):
    """Clips each row to a share of the row's weights, by largest entries; keeps the parameters to read them."""

    def __init__(self, clipping: float, *, eps: float = 0.125) -> None:
        self.clipping, self.eps = clipping, eps
        self._parameters: NamedParameters | None = None
        self._over: list[Tensor] = []

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self._parameters = parameters

    def apply_(self, gradients: Gradients, window: Window) -> None:
        assert self._parameters is not None
        self._over = []
        for name, gradient in gradients.items():
            weight = self._parameters[name].detach()
            sizes = _largest(gradient) if gradients.loss_scale is None else _largest(gradient) / gradients.loss_scale
            bounds = self.clipping * _largest(weight).clamp(min=self.eps)
            over = sizes > bounds
            gradient.mul_(torch.where(over, bounds / sizes, torch.ones_like(sizes)))
            self._over.append(over.flatten())

    @property
    def statistics(self) -> dict[str, Tensor]:
        return {"clipped": torch.cat(self._over).float().mean() if self._over else torch.zeros(())}


def _largest(tensor: Tensor) -> Tensor:
    return tensor.abs().flatten(1).amax(1).view(-1, *[1] * (tensor.dim() - 1)) if tensor.dim() > 1 else tensor.abs()
