"""A random training as plain data: a function of a seed and an index, so that what failed comes again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

import torch

from tests.layout import Layout
from tests.soak.chains import draw_chain
from tests.soak.models import SUBJECTS, Subject, draw_subject
from tests.soak.strategies import Drawn

OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    # its momenta would have to begin at the same step for all: torch 2.13 fails where some are still missing
    "fused SGD": (torch.optim.SGD, {"fused": True}),
    "AdamW": (torch.optim.AdamW, {"foreach": True}),
    "AdamW, one by one": (torch.optim.AdamW, {"foreach": False}),
    "fused AdamW": (torch.optim.AdamW, {"fused": True}),
}


@dataclass(frozen=True)
class Stop:
    """A stop, after which the training goes on.

    Args:
        after: Micro-batches of a window before it, which begins anew; `None` between windows.
        how: Whether the window is left by an exception or abandoned.
        reload: Whether everything goes through a file into fresh objects.
    """

    after: int | None
    how: Literal["raised", "abandoned"]
    reload: bool


@dataclass(frozen=True)
class Overflow:
    """A number put into a gradient, of a parameter by name, at an index modulo its entries."""

    parameter: str
    entry: int
    value: float


@dataclass(frozen=True)
class Plan:
    """One window: the seeds of its micro-batches, and what befalls it."""

    step: int
    epoch: int
    batches: tuple[int, ...]
    divisor: int
    overflow: Overflow | None = None
    stop: Stop | None = None


@dataclass(frozen=True)
class Configuration:
    """A training.

    Args:
        subject: The model, by name.
        dtype: That of its parameters.
        autocast: That of its forward pass; `None` for the same.
        scale: What a gradient scaler begins with; `None` for no scaler.
        growth: After how many windows the scaler grows.
        optimizer: One of `OPTIMIZERS`.
        rate: The learning rate.
        set_to_none: Whether `zero_grad` sets gradients to `None`.
        engine: Arguments of the engine besides the model and the strategy.
        drawn: The strategy.
        layout: The model, with what its user has frozen.
        plans: The windows.
        dropout: Whether the model is trained in train mode.
    """

    subject: str
    dtype: torch.dtype
    autocast: torch.dtype | None
    scale: float | None
    growth: int
    optimizer: str
    rate: float
    set_to_none: bool
    engine: Mapping[str, Any]
    drawn: Drawn
    layout: Layout
    plans: tuple[Plan, ...]
    dropout: bool = field(default=True)

    @property
    def model(self) -> Subject:
        return SUBJECTS[self.subject]

    def without_stops(self) -> "Configuration":
        return replace(self, plans=tuple(replace(plan, stop=None) for plan in self.plans))

    def __str__(self) -> str:
        return (
            f"{self.subject} in {self.dtype}, autocast {self.autocast}, loss scale {self.scale}, {self.optimizer}, "
            f"set to none {self.set_to_none}, frozen {sorted(self.layout.frozen)}, {dict(self.engine)}: "
            f"{described(self.drawn)}"
        )


def described(drawn: Drawn) -> str:
    """Return a strategy with its arguments, which its own representation leaves out."""
    kind = type(drawn.transform).__name__
    if drawn.parts:
        return f"{kind}({', '.join(f'{name}={described(part)}' for name, part in drawn.parts.items())})"
    arguments = {name: value for name, value in vars(drawn.transform).items() if not name.startswith("_")}
    return f"{kind}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def draw_configuration(seed: int, index: int) -> Configuration:
    """Draw a training.

    Args:
        seed: Seed of the soak.
        index: Which of its trainings.
    """
    rng = Random(f"{seed} {index}")  # noqa: S311  # nothing here is a secret
    name = draw_subject(rng)
    subject = SUBJECTS[name]
    layout = subject.layout(subject.build())
    low = [parameter for parameter, depths in layout.depths.items() if max(depths) <= 1]
    layout = replace(layout, frozen=frozenset(rng.sample(low, rng.choice([0, 0, 0, 1, 3]))))
    dtype, autocast, optimizer, scale = _precision(rng)
    plans = tuple(_plans(rng, layout, halves=torch.float16 in (dtype, autocast)))
    total = max(2, len(plans) + rng.choice([0, 0, 0, 5, -3]))
    return Configuration(
        subject=name,
        dtype=dtype,
        autocast=autocast,
        scale=scale,
        growth=rng.randint(1, 5),
        optimizer=optimizer,
        rate=10 ** rng.uniform(-4, -2),
        set_to_none=rng.random() < 0.5,
        engine=_engine(rng, total),
        drawn=draw_chain(rng, layout, layers=subject.layers, head=subject.head),
        layout=layout,
        plans=plans,
        dropout=rng.random() < 0.7,
    )


def _engine(rng: Random, total_steps: int) -> dict[str, Any]:
    """Draw the arguments of the engine; a new one of it is drawn here."""
    return {"total_steps": total_steps, "seed": rng.randint(1000, 9999), "skip_dropped": rng.random() < 0.7}


def _precision(rng: Random) -> tuple[torch.dtype, torch.dtype | None, str, float | None]:
    dtype = rng.choice([torch.float32] * 4 + [torch.float64, torch.bfloat16, torch.float16])
    optimizer = rng.choice(list(OPTIMIZERS))
    autocast = rng.choice([None, None, torch.bfloat16, torch.float16]) if dtype == torch.float32 else None
    scaled = rng.random() < (0.8 if torch.float16 in (dtype, autocast) else 0.25)
    if dtype == torch.float16 and "fused" not in optimizer:
        scaled = False  # torch's scaler takes half precision parameters with fused optimizers only
    return dtype, autocast, optimizer, 2.0 ** rng.choice([0, 4, 10, 16, 24, 40]) if scaled else None


def _plans(rng: Random, layout: Layout, *, halves: bool) -> list[Plan]:
    """Draw some epochs of windows; the last window of an epoch may be short."""
    together, batches, epochs = rng.choice([1, 1, 2, 3, 4]), rng.randint(1, 12), rng.randint(1, 3)
    plans: list[Plan] = []
    for epoch in range(epochs):
        for start in range(0, batches, together):
            seeds = tuple(rng.randrange(2**31) for _ in range(min(together, batches - start)))
            plan = Plan(len(plans), epoch, seeds, together)
            plans.append(replace(plan, overflow=_overflow(rng, layout, halves=halves), stop=_stop(rng, len(seeds))))
    return plans


def _overflow(rng: Random, layout: Layout, *, halves: bool) -> Overflow | None:
    if rng.random() > 0.15:
        return None
    values = [float("inf"), float("-inf"), float("nan"), 3e4 if halves else 1e15, 0.0, -0.0, 1e-7]
    return Overflow(rng.choice(list(layout.shapes)), rng.randrange(10_000), rng.choice(values))


def _stop(rng: Random, batches: int) -> Stop | None:
    if rng.random() > 0.2:
        return None
    after = rng.choice([None, *range(batches + 1)])
    return Stop(after, rng.choice(["raised", "abandoned"]), after is None or rng.random() < 0.5)
