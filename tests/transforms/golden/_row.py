"""A golden row, and the record of a fit with an overlay."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_sparsegrad import GradientTransform, SpikeSkip
from lightning_sparsegrad.transforms.base import runs_on_shards
from lightning_sparsegrad.transforms.masks.fixed_mask import FixedMask
from tests.reference import Reference


@dataclass
class Fit:
    """A short fit of a small BERT, with three optimizer steps to an epoch.

    Attributes:
        gradients: For every optimizer step, the gradients by parameter name, as the optimizer saw them.
        weights: The weights before the first step and after each.
        statistics: For every optimizer step, the statistics of the strategy.
    """

    gradients: list[dict[str, Tensor | None]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    statistics: list[dict[str, Tensor]] = field(default_factory=list)

    def present(self, step: int) -> dict[str, Tensor]:
        """Return the gradients of the tensors that were not dropped at a step."""
        return {name: gradient for name, gradient in self.gradients[step].items() if gradient is not None}

    def trained(self, step: int) -> set[str]:
        """Return the tensors with a gradient at a step; assert that no other weight changed by a bit."""
        before, after = self.weights[step], self.weights[step + 1]
        held = set(self.gradients[step]) - set(self.present(step))
        assert all(torch.equal(before[name], after[name]) for name in held)
        return set(self.present(step))


Effect = Callable[[Fit], None]


@dataclass(frozen=True)
class Golden:
    """The effect of a strategy on the gradients of `small.by_formula`.

    Args:
        transform: The strategy, with arguments.
        sums: For each of `small.WINDOWS`, the `weighted_sum` of all entries left.
        dropped: For each of `small.WINDOWS`, how many tensors end without a gradient.
        does: The same as a slow reference, before its first window; `reference` returns one for a run.
        overlay: Name of a file in `configs/gradient` that names this strategy.
        effect: Asserts that a fit with the overlay shows what the strategy is for.
    """

    transform: GradientTransform
    sums: tuple[float, ...]
    dropped: tuple[int, ...] = (0, 0, 0)
    does: Reference = field(kw_only=True)
    overlay: str | None = field(default=None, kw_only=True)
    effect: Effect | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        assert (self.overlay is None) == (self.effect is None), f"{self} needs both `overlay` and `effect`, or neither"

    def __str__(self) -> str:
        return repr(self.transform)

    def reference(self) -> Reference:
        """Return a slow reference that has learnt nothing yet."""
        return deepcopy(self.does)

    @property
    def learns(self) -> bool:
        """Whether the effect of a window depends on the steps before it."""
        return any(member.learns for member in self.transform.flattened())

    @property
    def calibrates(self) -> bool:
        """Whether the first window, of step 0, trains nothing and chooses what later ones train."""
        return any(getattr(member, "calibration_windows", 0) > 0 for member in self.transform.flattened())

    @property
    def holds(self) -> bool:
        """Whether a strategy freezes rows or entries."""
        return any(isinstance(member, FixedMask) for member in self.transform.flattened())

    @property
    def leaves_out(self) -> bool:
        """Whether a strategy leaves out whole windows, for which it reads a number on the host."""
        return any(isinstance(member, SpikeSkip) for member in self.transform.flattened())

    @property
    def on_shards(self) -> bool:
        """Whether the strategy takes sharded gradients; otherwise an engine refuses them."""
        return runs_on_shards(self.transform)
