"""Plain loops with the strategies of users, and their results, bit by bit."""

import io
from collections.abc import Callable
from hashlib import blake2b
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparsegrad import Chain, ComponentNormClip, GradientEngine, GradientTransform, LayerGradDrop, ValueClip
from lightning_sparsegrad.schedules import Linear
from tests.compatibility.model import Tower, adamw, sgd
from tests.compatibility.strategies import (
    EverySecondStep,
    HeadOnlyAtFirst,
    RandomBlocks,
    TalliedLayerGradDrop,
    UnitwiseClip,
    WatchedLayerGradDrop,
    WeightsClip,
)

WINDOWS, SEED = 8, 3
STRATEGIES: dict[str, Callable[[], GradientTransform]] = {
    "own": RandomBlocks,
    "own with a seed": lambda: RandomBlocks(seed=9),
    "watched": lambda: WatchedLayerGradDrop(0.5),
    "tallied": lambda: TalliedLayerGradDrop(Linear(0.75, 0.25), seed=4),
    "head only at first": lambda: HeadOnlyAtFirst(steps=2),
    "every second step": lambda: EverySecondStep(LayerGradDrop(0.5)),
    "every second step, own": lambda: EverySecondStep(RandomBlocks()),
    "every second step, chain": lambda: EverySecondStep(Chain([LayerGradDrop(0.5), ComponentNormClip(0.5)])),
    "weights clip": lambda: WeightsClip(Linear(0.5, 0.125), head_norm=0.25, norm_type=inf),
    "unitwise clip": lambda: UnitwiseClip(0.75),
}
WHERE = ("alone", "before a clip", "behind a clip", "before a joint clip", "behind a joint clip")
USERS = "users"  # the name of the user's strategy in a chain


def built(name: str, where: str) -> GradientTransform:
    """Return a strategy, alone or in a chain with a clip of the library."""
    mine = STRATEGIES[name]()
    if where == "alone":
        return mine
    clip: GradientTransform
    if "norm" in mine.bounds:
        clip = ValueClip(0.25)
    elif "joint" in where:
        clip = ComponentNormClip(0.5, components={"*": "all"}, norm_type=inf)
    else:
        clip = ComponentNormClip(0.5, norm_type=inf if clips(name) else 2.0)
    members: dict[str, GradientTransform] = {USERS: mine, "clip": clip}
    return Chain(members if where.startswith("before") else dict(reversed(members.items())))


def clips(name: str) -> bool:
    """Return whether a strategy rounds, so that no sum of squares and no AdamW may follow: see `model`."""
    return "clip" in name or "chain" in name


def run(
    name: str, where: str, *, skip_dropped: bool = True, loss_scale: float | None = None, resume: bool = False
) -> dict[str, Any]:
    """Train the tower with a strategy; return hashes of gradients and weights, and what the strategy reports.

    Args:
        name: The strategy.
        where: One of `WHERE`.
        skip_dropped: Whether the work on dropped gradients is left out.
        loss_scale: A power of two, or `None`.
        resume: Whether all is saved after half of the windows, and loaded into fresh objects.
    """
    parts = _Parts(name, where, skip_dropped)
    gradients: list[str] = []
    for step in range(WINDOWS):
        if resume and step == WINDOWS // 2:
            saved = parts.save()
            parts = _Parts(name, where, skip_dropped)
            parts.load(saved)
        with parts.engine.window(step, epoch=step // 3):
            for micro in range(2):
                (parts.model(16 * step + 8 * micro) * (loss_scale or 1.0)).backward()
            parts.engine.apply_(loss_scale=None if loss_scale is None else torch.tensor(loss_scale))
        given = {key: p.grad if p.grad is None else p.grad / (loss_scale or 1.0) for key, p in parts.named()}
        for key, parameter in parts.named():
            parameter.grad = given[key]
        gradients.append(digest(given))
        parts.optimizer.step()
        parts.optimizer.zero_grad()
    mine = parts.mine()
    return {
        "gradients": gradients,
        "weights": digest(dict(parts.named())),
        "statistics": {key: float(value) for key, value in sorted(mine.statistics.items())},
        "state": {} if isinstance(mine, EverySecondStep) else mine.state_dict(),  # else that of the library's
    }


class _Parts:
    def __init__(self, name: str, where: str, skip_dropped: bool) -> None:
        self.model: nn.Module = Tower()
        self.engine = GradientEngine(
            self.model, built(name, where), total_steps=WINDOWS, seed=SEED, skip_dropped=skip_dropped
        )
        self.optimizer: Optimizer = (sgd if clips(name) or where != "alone" else adamw)(self.model)

    def named(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.model.named_parameters())

    def mine(self) -> GradientTransform:
        """Return the user's strategy."""
        transform = self.engine.transform
        return transform.transforms[USERS] if isinstance(transform, Chain) else transform

    def save(self) -> bytes:
        buffer = io.BytesIO()
        torch.save([part.state_dict() for part in (self.model, self.engine, self.optimizer)], buffer)
        return buffer.getvalue()

    def load(self, saved: bytes) -> None:
        states = torch.load(io.BytesIO(saved), weights_only=True)
        self.model.load_state_dict(states[0])
        self.engine.load_state_dict(states[1])
        self.optimizer.load_state_dict(states[2])


def digest(tensors: dict[str, Any]) -> str:
    """Return a hash of the bits of float32 tensors by name, of which some may be missing."""
    digest = blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        bits = tensor.detach().contiguous().view(torch.int32).flatten().tolist() if isinstance(tensor, Tensor) else None
        digest.update(f"{name}: {bits}".encode())
    return digest.hexdigest()
