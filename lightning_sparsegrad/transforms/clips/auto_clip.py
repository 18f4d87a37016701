"""AutoClip: the norm is clipped to a percentile of the norms so far."""

from collections.abc import Mapping
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.components import ComponentSpec
from lightning_sparsegrad.errors import require_integer, require_number
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.clips._lessons import MOST_NORMS, number_in, put, teaches, with_history
from lightning_sparsegrad.transforms.clips.adaptive_norm_clip import AdaptiveNormClip, State


class AutoClip(AdaptiveNormClip):
    r"""Clip the gradient norm to a percentile of the norms of the last steps (AutoClip).

    .. math:: \tau = \text{percentile}_p(\lVert g_1 \rVert, \dots, \lVert g_t \rVert)

    over the last norms, the present one among them, interpolated linearly between two of them. At a percentile of 10,
    about nine steps in ten are clipped; 100 clips nothing, and 0 clips to the smallest norm.

    Args:
        percentile: The percentile :math:`p`, from 0 to 100. The authors' code has no default.
        components: What has a norm and a threshold of its own. `"global"`: all gradients together, as in the authors'
            code. For the others see `AdaptiveNormClip`.
        history: Number of norms to keep for each component, from 1 to 1,000,000. The authors keep all.

    Raises:
        ConfigurationError: At construction, for an argument outside its range; when bound, if the model cannot be cut
            into such components.

    Note:
        Deviations from the authors' code: it adds the norm of every backward pass, where this adds that of the whole
        accumulated gradient once a step has happened; one NaN in its history makes all gradients NaN from then on,
        and its history is not in checkpoints. See `AdaptiveNormClip` for what is learnt from.

    References:
        P. Seetharaman, G. Wichern, B. Pardo and J. Le Roux, "AutoClip: Adaptive Gradient Clipping for Source Separation
        Networks", 2020, https://arxiv.org/abs/2007.14469.

    Example:
        >>> AutoClip(percentile=10.0)
        AutoClip(percentile=10)
    """

    def __init__(self, percentile: float = 10.0, *, components: ComponentSpec = "global", history: int = 256) -> None:
        super().__init__(components)
        self.percentile = require_number("percentile", percentile, lambda p: 0 <= p <= 100, "from 0 to 100")
        require_integer("history", history, least=1, most=MOST_NORMS)
        self.history = history

    def fresh(self) -> Mapping[str, Tensor]:
        return {"history": torch.full((self.history,), nan, dtype=torch.float64)}

    def thresholds_of(self, state: State, norms: Tensor, window: Window) -> Tensor:  # noqa: ARG002
        if self.percentile == 100:
            return torch.full_like(norms, inf)  # also for a norm that does not teach
        new = teaches(norms)
        history = torch.where(new.unsqueeze(-1), put(state["history"], state["count"], norms), state["history"])
        return self._percentiles(history)

    def after(self, state: State, norms: Tensor, norms_left: Tensor) -> State:  # noqa: ARG002
        return {"history": put(state["history"], state["count"], norms)}

    def level(self, state: State) -> Tensor:
        return self._percentiles(state["history"])

    def _percentiles(self, history: Tensor) -> Tensor:
        """Return the percentile of each history; infinity where it is empty."""
        ascending = history.sort(dim=-1).values  # NaN last
        number = number_in(history)
        rank = (number - 1).clamp(min=0).to(history) * (self.percentile / 100)
        below, above = rank.floor(), rank.ceil()
        ends = torch.stack([below, above], dim=-1).long()
        low, high = ascending.gather(-1, ends).unbind(-1)
        return torch.where(number > 0, torch.lerp(low, high, rank - below), inf)

    def settings(self, window: Window) -> Mapping[str, float]:  # noqa: ARG002
        return {"percentile": self.percentile, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(with_history(state, self.history))

    def __repr__(self) -> str:
        return f"AutoClip(percentile={self.percentile:g})"
