"""ZClip: a norm far above the recent ones is clipped, by its z-score."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_sparsegrad.components import ComponentSpec
from lightning_sparsegrad.errors import require_integer, require_number, require_one_of
from lightning_sparsegrad.schedules import Schedule, as_threshold
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.clips.adaptive_norm_clip import AdaptiveNormClip, State

Mode = Literal["reciprocal", "percentile", "mean"]

_LEAST_SPREAD = 0.01  # of the mean


class ZClip(AdaptiveNormClip):
    r"""Clip a gradient norm that lies many standard deviations above the recent ones (ZClip).

    .. math:: \tau = \min(\text{max\_norm}, \mu + z_0 \sigma \cdot z_0 / z)
        \quad \text{if } z = (\lVert g \rVert - \mu) / \sigma > z_0

    with the mean :math:`\mu` and the standard deviation :math:`\sigma` of the norms before; otherwise
    :math:`\tau = \text{max\_norm}`. Both are exponential moving averages, of the norms and of
    :math:`\mu + z_0 \sigma \cdot z_0 / z` in place of a norm that exceeds it. They start from the mean and variance of
    the first norms, while only `max_norm` clips. Where most norms are above `max_norm`, it is all that acts: raise it.

    Args:
        z_threshold: The z-score :math:`z_0` from which a norm is clipped, positive; infinity for `max_norm` alone.
        mode: To what such a norm is clipped. `"reciprocal"`: as above, lower for a higher z-score. `"percentile"`:
            :math:`\mu + z_0 \sigma`. `"mean"`: :math:`\mu`.
        alpha: Share of the old averages in the new ones, between 0 and 1.
        warmup_steps: Number of norms from which the averages start, positive.
        max_norm: Upper bound of the threshold in true gradient units, positive; infinity for none; or a schedule.
        components: What has a norm and a threshold of its own. `"global"`: all gradients together, as in the authors'
            code. For the others see `AdaptiveNormClip`.

    Raises:
        ConfigurationError: At construction, for an argument outside its range; when bound, if the model cannot be cut
            into such components.

    Note:
        The defaults are those of the authors' code. Deviations: :math:`\sigma` is at least 0.01 :math:`\mu`, so that
        norms which hardly vary are not clipped at every rise; one overflow or NaN does not end all clipping; norms are
        accumulated in float32 or wider; averages are in checkpoints. See `AdaptiveNormClip` for what is learnt from. As
        in the authors' code, norms that rise for good by more than :math:`z_0 \sigma`, and less than 1000 times, stay
        clipped in the modes `"reciprocal"` and `"mean"`, in which a clipped norm hardly raises the averages.

    References:
        A. Kumar, L. Owen, N. Roy Chowdhury and F. Güra, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025,
        https://arxiv.org/abs/2504.02507.

    Example:
        >>> ZClip(z_threshold=2.5, max_norm=1.0)
        ZClip(z_threshold=2.5, max_norm=1)
    """

    def __init__(
        self,
        z_threshold: float = 2.5,
        *,
        mode: Mode = "reciprocal",
        alpha: float = 0.97,
        warmup_steps: int = 25,
        max_norm: float | Schedule = 1.0,
        components: ComponentSpec = "global",
    ) -> None:
        super().__init__(components)
        self.z_threshold = require_number("z_threshold", z_threshold, lambda z: z > 0, "positive")
        require_one_of("mode", mode, get_args(Mode))
        self.mode = mode
        self.alpha = require_number("alpha", alpha, lambda share: 0 < share < 1, "between 0 and 1, neither of them")
        require_integer("warmup_steps", warmup_steps, least=1)
        self.warmup_steps = warmup_steps
        self.max_norm = as_threshold("max_norm", max_norm)

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.max_norm,)

    def fresh(self) -> Mapping[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float64)
        return {"mean": zero, "variance": zero}

    def thresholds_of(self, state: State, norms: Tensor, window: Window) -> Tensor:
        return self._adaptive(state, norms).clamp(max=self.max_norm(window.progress))

    def after(self, state: State, norms: Tensor, norms_left: Tensor) -> State:  # noqa: ARG002
        count, mean, variance = state["count"] + 1, state["mean"], state["variance"]
        # the mean and variance so far, in a warm-up
        first_mean = mean + (norms - mean) / count
        first_variance = variance + ((norms - mean) * (norms - first_mean) - variance) / count
        # their moving averages after it
        lesson = torch.minimum(norms, self._adaptive(state, norms))
        moved_mean = self.alpha * mean + (1 - self.alpha) * lesson
        moved_variance = self.alpha * variance + (1 - self.alpha) * (lesson - moved_mean).square()
        first = count <= self.warmup_steps
        return {
            "mean": torch.where(first, first_mean, moved_mean),
            "variance": torch.where(first, first_variance, moved_variance),
        }

    def level(self, state: State) -> Tensor:
        return state["mean"]

    def _adaptive(self, state: State, norms: Tensor) -> Tensor:
        """Return the thresholds without `max_norm`: infinity where a norm is no spike."""
        mean = state["mean"]
        spread = torch.maximum(state["variance"].sqrt(), _LEAST_SPREAD * mean)
        score = (norms - mean) / spread
        threshold = {
            "reciprocal": lambda: mean + self.z_threshold * spread * (self.z_threshold / score),
            "percentile": lambda: mean + self.z_threshold * spread,
            "mean": lambda: mean,
        }[self.mode]()
        return torch.where((state["count"] >= self.warmup_steps) & (score > self.z_threshold), threshold, inf)

    def settings(self, window: Window) -> Mapping[str, float]:
        max_norm = self.max_norm(window.progress)
        return {"z_threshold": self.z_threshold, "warmup_steps": self.warmup_steps, "max_norm": max_norm}

    def __repr__(self) -> str:
        return f"ZClip(z_threshold={self.z_threshold:g}, max_norm={self.max_norm!r})"
