"""AdaGC: every tensor's norm is clipped to a little more than the moving average of its clipped norms."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from lightning_sparsegrad.components import ComponentSpec
from lightning_sparsegrad.errors import require_integer, require_number
from lightning_sparsegrad.schedules import Constant, Schedule, as_threshold
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.clips._lessons import LEAST_NORM
from lightning_sparsegrad.transforms.clips.adaptive_norm_clip import AdaptiveNormClip, State


class AdaGC(AdaptiveNormClip):
    r"""Clip the norm of each tensor to a multiple of the moving average of its clipped norms (AdaGC).

    .. math:: \tau_c = \text{ratio} \cdot \gamma_c, \qquad
        \gamma_c \leftarrow \beta \gamma_c + (1 - \beta) \min(\lVert g_c \rVert, \tau_c)

    for every component :math:`c`. In its first steps, the component is scaled as a clip of the whole gradient to
    `max_norm` would scale it, and :math:`\gamma_c` is the smallest of the norms that this leaves. It then grows by at
    most the share :math:`(1 - \beta)(\text{ratio} - 1)` per step, 0.0004 by default: where norms grow after the first
    steps, as in a warm-up of the learning rate, nearly every step is clipped from then on, and training slows down.

    Args:
        ratio: Threshold as a multiple of the average, at least 1; infinity for `max_norm` alone.
        beta: Share of the old average in the new one, between 0 and 1.
        warmup_steps: Number of steps that a component learns from before `ratio` applies, positive.
        max_norm: Threshold of the whole gradient in these steps, in true gradient units, positive; infinity for none;
            or a schedule.
        components: What has a norm and a threshold of its own. `"tensor"`: each weight and each bias, as in the
            authors' code; `"global"`: all gradients together. For the others see `AdaptiveNormClip`.

    Raises:
        ConfigurationError: At construction, for an argument outside its range; when bound, if the model cannot be cut
            into such components.

    Note:
        The defaults are those of the authors' code. Deviations: each component counts its first steps itself; a norm of
        zero does not become its :math:`\gamma_c`, which would stop it for ever; no epsilon is added to the norm, with
        which small ones would shrink in every step; the averages are in checkpoints. See `AdaptiveNormClip` for what is
        learnt from.

    References:
        G. Wang, S. Li, C. Chen, J. Zeng, J. Yang, D. Yu, Y. Ma and L. Shen, "AdaGC: Improving Training Stability for
        Large Language Model Pretraining", 2025, https://arxiv.org/abs/2502.11034, algorithm 1.

    Example:
        >>> AdaGC(ratio=1.04)
        AdaGC(ratio=1.04, max_norm=1)
    """

    def __init__(
        self,
        ratio: float = 1.04,
        *,
        beta: float = 0.99,
        warmup_steps: int = 100,
        max_norm: float | Schedule = 1.0,
        components: ComponentSpec = "tensor",
    ) -> None:
        super().__init__(components)
        self.ratio = require_number("ratio", ratio, lambda ratio: ratio >= 1, "at least 1")
        self.beta = require_number("beta", beta, lambda share: 0 < share < 1, "between 0 and 1, neither of them")
        require_integer("warmup_steps", warmup_steps, least=1)
        self.warmup_steps = warmup_steps
        self.max_norm = as_threshold("max_norm", max_norm)
        self._share = torch.ones(())  # that a clip of the whole gradient to `max_norm` leaves of it

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.max_norm,)

    def reads_together(self) -> Iterable[frozenset[str]] | None:
        is_alone = isinstance(self.max_norm, Constant) and self.max_norm.value == inf
        return super().reads_together() if is_alone else None

    def fresh(self) -> Mapping[str, Tensor]:
        return {"average": torch.zeros((), dtype=torch.float64)}

    def thresholds_of(self, state: State, norms: Tensor, window: Window) -> Tensor:
        max_norm = self.max_norm(window.progress)
        norm = torch.linalg.vector_norm(norms)
        self._share = (max_norm / norm).clamp(max=1.0) if max_norm < inf else torch.ones_like(norm)
        of_global_clip = torch.where((self._share >= 1) | (norms < LEAST_NORM), inf, norms * self._share)
        return torch.where(self._is_first(state), of_global_clip, self.ratio * state["average"])

    def after(self, state: State, norms: Tensor, norms_left: Tensor) -> State:  # noqa: ARG002
        average = state["average"]
        smallest = torch.where(state["count"] > 0, torch.minimum(average, norms_left), norms_left)
        moved = self.beta * average + (1 - self.beta) * norms_left
        return {"average": torch.where(self._is_first(state), smallest, moved)}

    def as_fresh(self, norms: Tensor) -> Tensor:
        return norms * self._share  # or norms far above `max_norm` would start its first steps again and again

    def level(self, state: State) -> Tensor:
        return state["average"]

    def _is_first(self, state: State) -> Tensor:
        return state["count"] < self.warmup_steps

    def settings(self, window: Window) -> Mapping[str, float]:
        max_norm = self.max_norm(window.progress)
        return {"ratio": self.ratio, "warmup_steps": self.warmup_steps, "max_norm": max_norm}

    def __repr__(self) -> str:
        return f"AdaGC(ratio={self.ratio:g}, max_norm={self.max_norm!r})"
