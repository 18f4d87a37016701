"""SpikeSkip: a window whose gradient norm is far above the recent ones is left out."""

from collections.abc import Mapping
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.components._held import Held
from lightning_sparsegrad.errors import require_integer, require_number
from lightning_sparsegrad.functional import shard_of
from lightning_sparsegrad.transforms.base import Gradients, Window
from lightning_sparsegrad.transforms.clips._lessons import MOST_NORMS, number_in, put, with_history
from lightning_sparsegrad.transforms.clips.adaptive_norm_clip import AdaptiveNormClip, State

_LEAST_SPREAD = 0.01  # of the mean
_ORDINARY, _SPIKE, _HUGE, _NAN = range(4)  # norms; that on any process counts which comes last


class SpikeSkip(AdaptiveNormClip):
    r"""Leave out a window whose gradient norm lies many standard deviations above those of the last steps.

    .. math:: \lVert g \rVert > \mu + \text{deviations} \cdot \sigma

    with the mean :math:`\mu` and the standard deviation :math:`\sigma` of the norms of the last steps, the present
    one excluded. No gradient is left then, as with `nonfinite="skip"`: the optimizer changes neither weights nor
    momenta. Under fp16 loss scaling, where the scaler needs gradients, they become infinite instead: it skips the step,
    and lowers its scale as after an overflow.

    It learns from a window only after a step that happened, and only from a norm between 1e-19 and 1e19, whose square
    float32 can hold: what it leaves out, overflows and zeros leave no trace. A norm that is infinite although every
    gradient is finite is a spike. Gradients that are not finite are left to the engine or the module: use
    `nonfinite="skip"` as well. It reads one number on the host in each window, and a few more in one that it leaves
    out. In a chain it comes before clips, behind which no norm stands out.

    Args:
        deviations: Number of standard deviations above the mean from which a norm is a spike, positive; infinity leaves
            out nothing.
        history: Number of norms to keep, from 2 to 1,000,000.
        warmup_steps: Number of norms from which on windows may be left out, at least 2.
        max_in_a_row: The most windows to leave out in a row; one more is an error. A window with gradients that are not
            finite neither counts nor ends a row.

    Raises:
        ConfigurationError: At construction, for an argument outside its range.
        FloatingPointError: In a window, if `max_in_a_row` windows before it were left out and it is a spike too.

    Note:
        The defaults are those of OLMo-core, `max_in_a_row` apart. Deviations: the loss is not looked at; spikes do not
        raise the threshold; gradients are not multiplied by 0, with which a NaN would stay; :math:`\sigma` is at least
        0.01 :math:`\mu`; the norms are in checkpoints.

    References:
        After OLMo-core, "SkipStepOptimizer", 2024, https://github.com/allenai/OLMo-core.

    Example:
        >>> SpikeSkip(deviations=6.0)
        SpikeSkip(deviations=6)
    """

    bounds = frozenset()  # it stands beside a clip in a chain
    before_clips = True

    def __init__(
        self, deviations: float = 6.0, *, history: int = 128, warmup_steps: int = 64, max_in_a_row: int = 5
    ) -> None:
        super().__init__("global")
        self.deviations = require_number("deviations", deviations, lambda number: number > 0, "positive")
        require_integer("history", history, least=2, most=MOST_NORMS)
        require_integer("warmup_steps", warmup_steps, least=2)
        require_integer("max_in_a_row", max_in_a_row, least=1)
        self.history, self.warmup_steps, self.max_in_a_row = history, warmup_steps, max_in_a_row
        self._spikes = 0  # windows left out so far
        self._row: list[float] = []  # norms of the last ones, left out in a row

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        super().bind(parameters, total_steps=total_steps)
        self._spikes, self._row = 0, []

    def fresh(self) -> Mapping[str, Tensor]:
        return {"history": torch.full((self.history,), nan, dtype=torch.float64)}

    def thresholds_of(self, state: State, norms: Tensor, window: Window) -> Tensor:  # noqa: ARG002
        history = state["history"]
        number = number_in(history)
        mean = history.nansum(-1) / number
        variance = (history - mean.unsqueeze(-1)).square().nansum(-1) / (number - 1)
        bound = mean + self.deviations * torch.maximum(variance.sqrt(), _LEAST_SPREAD * mean)
        return torch.where(state["count"] >= self.warmup_steps, bound, inf)

    def after(self, state: State, norms: Tensor, norms_left: Tensor) -> State:  # noqa: ARG002
        return {"history": put(state["history"], state["count"], norms)}

    def level(self, state: State) -> Tensor:
        return torch.full_like(state["history"][:, 0], nan)  # it raises an error in place of starting anew

    def scale_(self, gradients: Gradients, held: Held, window: Window) -> None:
        norm, threshold = self._norms[0], self._thresholds[0]
        kinds = torch.where(norm.isfinite(), (norm > threshold).long(), torch.where(norm.isnan(), _NAN, _HUGE))
        for group in dict.fromkeys(group for group in held.groups if group is not None):
            # what each process holds whole may not have been reduced, and all have to decide alike
            torch.distributed.all_reduce(kinds, torch.distributed.ReduceOp.MAX, group=group)
        kind = int(kinds)  # the one number that is read
        if kind == _HUGE and bool(gradients.finite):  # the square of the norm is beyond float32
            kind = int(threshold < inf)
        if kind == _SPIKE:
            self._leave_out(float(norm), float(threshold), gradients, window)
        elif kind == _ORDINARY:
            self._row = []

    def _leave_out(self, norm: float, threshold: float, gradients: Gradients, window: Window) -> None:
        if len(self._row) >= self.max_in_a_row:
            norms = ", ".join(f"{each:.4g}" for each in [*self._row, norm])
            raise FloatingPointError(
                f"`{self!r}` should leave out at most `max_in_a_row = {self.max_in_a_row}` windows in a row. Found one "
                f"more at step {window.step}: the gradient norms {norms} are above {threshold:.4g}. A lower learning "
                f"rate may help, or larger `deviations`."
            )
        self._row = [*self._row, norm]
        self._spikes += 1
        if gradients.loss_scale is None:
            gradients.lose(list(gradients), by=self)
        else:
            for gradient in gradients.values():
                shard_of(gradient).local.fill_(inf)

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return {}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`spikes`: how many windows were left out so far; `norm_before/all` and `threshold/all`."""
        measured = {key: value for key, value in super().statistics.items() if key.endswith("/all")}
        measured.pop("norm_after/all", None)
        return {"spikes": torch.tensor(float(self._spikes)), **measured}

    def settings(self, window: Window) -> Mapping[str, float]:  # noqa: ARG002
        return {"deviations": self.deviations, "warmup_steps": self.warmup_steps}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "spikes": self._spikes, "row": list(self._row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(with_history(state, self.history))
        if state.get("class") == type(self).__name__:
            self._spikes, self._row = int(state.get("spikes", 0)), [float(norm) for norm in state.get("row", ())]

    def __repr__(self) -> str:
        return f"SpikeSkip(deviations={self.deviations:g})"
