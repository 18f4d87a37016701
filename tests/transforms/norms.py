"""Windows whose gradients have given norms, on a model of three tensors, with the optimizer steps that follow."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_sparsegrad import GradientEngine, GradientTransform
from tests.layout import Layout
from tests.reference import When
from tests.transforms.small import bits, still_of, values_of

Norms = Mapping[str, float | None]  # by parameter; None: no gradient

NAMES = ("first.weight", "second.weight", "second.bias")
LAYOUT = Layout(
    shapes=dict.fromkeys(NAMES, (4,)),
    depths=dict.fromkeys(NAMES, frozenset({0})),
    head=1,
    fused={},
)


class Tensors(nn.Module):
    """Three vectors of four weights each."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first, self.second = nn.Module(), nn.Module()
        for name in NAMES:
            module, _, kind = name.rpartition(".")
            self.get_submodule(module).register_parameter(kind, nn.Parameter(torch.ones(4, dtype=dtype)))


class Training:
    """An engine on the model, and an optimizer whose steps change nothing.

    Args:
        transform: The strategy.
        dtype: Of the weights.
        total_steps: Steps of the whole training, if known.
    """

    def __init__(
        self, transform: GradientTransform, *, dtype: torch.dtype = torch.float64, total_steps: int | None = None
    ) -> None:
        self.model = Tensors(dtype)
        self.engine = GradientEngine(self.model, transform, total_steps=total_steps)
        self.optimizer = still_of(self.engine)
        self.step = 0

    @property
    def strategy(self) -> Any:
        return self.engine.transform

    def window(self, norms: float | Norms, *, steps: bool = True, loss_scale: float | None = None) -> dict[str, float]:
        """Run a window; a number is the norm of the first tensor, all others are zero. Return the thresholds."""
        self.fill(norms, loss_scale or 1.0)
        scale = None if loss_scale is None else torch.tensor(loss_scale)
        with self.engine.window(self.step):
            self.engine.apply_(loss_scale=scale)
        self.step += 1
        if steps:
            self.optimizer.step()
        return {name: float(value) for name, value in self.strategy.thresholds.items()}

    def windows(self, norms: Sequence[float | Norms]) -> dict[str, float]:
        """Run several windows, and return the last thresholds."""
        return [self.window(each) for each in norms][-1]

    def fill(self, norms: float | Norms, scale: float = 1.0) -> None:
        norms = norms if isinstance(norms, Mapping) else {**dict.fromkeys(NAMES, 0.0), NAMES[0]: norms}
        for name, parameter in self.model.named_parameters():
            size = norms[name]
            parameter.grad = None if size is None else torch.full_like(parameter, size / 2 * scale)

    def left(self, name: str = NAMES[0]) -> float:
        """Return the norm that is left of a gradient."""
        gradient = self.model.get_parameter(name).grad
        assert gradient is not None
        return float(gradient.double().norm())

    def state(self) -> dict[str, Any]:
        return dict(deepcopy(self.strategy.state_dict()))


def assert_same_state(state: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Assert that the states of two strategies are equal to the last bit."""
    assert state.keys() == other.keys()
    for name, value in state.items():
        if isinstance(value, Tensor):
            assert torch.equal(bits(value), bits(other[name])), name
        else:
            assert value == other[name], name


class Slowly:
    """A reference on the gradients of a training.

    Args:
        reference: The reference of the strategy, fresh.
    """

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def expected(self, training: Training, norms: Norms) -> dict[str, Tensor | None]:
        """Return what is left of the gradients of a window."""
        training.fill(norms)
        when = When(step=training.step, epoch=0, total_steps=1000, seed=0)
        left = self.reference(values_of(training.model), when, LAYOUT)
        return {
            name: None if entries is None else torch.tensor(entries.values, dtype=torch.float64)
            for name, entries in left.items()
        }


# ---------------------------------------------------------------- sequences of norms
def ordinary(count: int, seed: int, *, size: float = 1.0, spread: float = 0.15, spikes: float = 0.0) -> list[float]:
    """Return norms that vary a little around a size; some are spikes, up to a hundred times as large."""
    generator = np.random.default_rng(seed)
    norms = size * generator.lognormal(0.0, spread, count)
    heights = np.where(generator.random(count) < spikes, generator.uniform(3, 100, count), 1.0)
    return [float(norm) for norm in norms * heights]


NASTY = (0.0, nan, inf, 1e-30, 1e30, 1e-8, 1e8)


def nasty(count: int, seed: int, *, share: float = 0.3, missing: float = 0.1) -> Iterator[dict[str, float | None]]:
    """Yield norms of all tensors, some nasty and some missing; for a while, ordinary ones are 30,000 times as large."""
    generator = np.random.default_rng(seed)
    for step in range(count):
        size = 3e4 if count // 2 <= step < count // 2 + 40 else 1.0
        norms: dict[str, float | None] = {}
        for name in NAMES:
            norms[name] = size * float(generator.lognormal(0.0, 0.3))
            if generator.random() < share:
                norms[name] = float(generator.choice(NASTY))
            if generator.random() < missing:
                norms[name] = None
        yield norms


def is_ordinary(norms: Norms) -> bool:
    """Say whether all norms are finite and none is so large that float32 cannot hold its square."""
    return all(norm is None or (isfinite(norm) and norm < 1e19) for norm in norms.values())
