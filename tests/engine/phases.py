"""A strategy for each phase other than the gradient phase: one learns, one acts on updates, one calibrates."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad import Gradients, GradientTransform, NamedParameters, UpdateTransform, Window


class LargestSeen(GradientTransform):
    """Clips each tensor to the largest norm of all steps so far."""

    learns = True

    def __init__(self) -> None:
        self.largest: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.largest = {name: torch.zeros(()) for name in parameters}

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    def apply_(self, gradients: Gradients, window: Window) -> None:
        norms = gradients.norms()
        self.seen.update(norms)
        for name, norm in norms.items():
            largest = self.largest[name]
            gradients[name].mul_(torch.where(largest > 0, (largest / norm).clamp(max=1), 1))

    def commit_(self, names: frozenset[str], happened: Tensor) -> None:
        for name in names & self.seen.keys():
            seen = torch.maximum(self.largest[name], self.seen.pop(name))
            self.largest[name] = torch.where(happened & seen.isfinite(), seen, self.largest[name])

    def forget_(self) -> None:
        self.seen = {}

    def state_dict(self) -> dict[str, Any]:
        return {"largest": dict(self.largest)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.largest = dict(state["largest"])


class FirstRowStays(UpdateTransform):
    """Restores the first row of every matrix after the step, whatever moved it."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.happened: list[bool] = []
        self.calls = 0

    def before_step_(self, weights: Mapping[str, Tensor], window: Window) -> None:
        self.calls += 1
        self.kept.update({name: weight[0].clone() for name, weight in weights.items() if weight.ndim == 2})

    def after_step_(self, weights: Mapping[str, Tensor], window: Window, happened: Tensor) -> None:
        self.happened.append(bool(happened))
        for name, weight in weights.items():
            if weight.ndim == 2:
                weight[0] = self.kept.pop(name)


class LargestOfFirst(GradientTransform):
    """Trains the entries with the largest gradients of the first two windows, half of each tensor."""

    phases = frozenset({"calibration", "gradient"})

    def __init__(self) -> None:
        self.scores: dict[str, Tensor] = {}

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.scores = {name: torch.zeros_like(parameters[name].detach()) for name in parameters}

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    def calibrates(self, window: Window) -> bool:
        return window.step < 2

    def calibrate_(self, gradients: Gradients, window: Window) -> None:
        for name, gradient in gradients.items():
            self.scores[name] += gradient.abs()

    def apply_(self, gradients: Gradients, window: Window) -> None:
        for name, gradient in gradients.items():
            gradient.mul_(self.scores[name] >= self.scores[name].median())

    def state_dict(self) -> dict[str, Any]:
        return {"scores": dict(self.scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scores = {name: score.clone() for name, score in state["scores"].items()}
