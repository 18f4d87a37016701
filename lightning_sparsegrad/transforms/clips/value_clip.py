"""Value clipping: every entry is bounded on its own."""

from collections.abc import Iterable, Sequence
from math import isinf

from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.functional import clip_values_
from lightning_sparsegrad.schedules import Schedule, as_threshold
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window, share


class ValueClip(GradientTransform):
    r"""Clamp every entry of the gradient to an interval around zero.

    .. math:: \tilde g_i = \min(\max(g_i, -v), v)

    An infinite or undefined entry becomes NaN, so that a gradient scaler sees the overflow; `clamp` alone would turn an
    infinite one into the bound.

    Args:
        max_value: The bound :math:`v` in true gradient units, positive; infinity clips nothing; or a schedule.

    Raises:
        ConfigurationError: If the bound is not positive.

    Note:
        Two-sided, unlike the value clip in the code of CGNC's authors, which bounds from above only.

    Example:
        >>> ValueClip(max_value=0.01)
        ValueClip(max_value=0.01)
    """

    bounds = frozenset({"value"})
    on_shards = True

    def __init__(self, max_value: float | Schedule) -> None:
        self.max_value = as_threshold("max_value", max_value)
        self._clipped: Tensor | int = 0
        self._total = 0

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.max_value,)

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:  # noqa: ARG002
        self.require_total_steps(total_steps)

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    def apply_(self, gradients: Gradients, window: Window) -> None:
        max_value = self.max_value(window.progress)
        self._clipped, self._total = 0, sum(gradient.numel() for gradient in gradients.values())
        if gradients and not isinf(max_value):
            self._clipped = clip_values_(list(gradients.values()), max_value, loss_scale=gradients.loss_scale)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`clipped`: the share of entries beyond the bound."""
        return {"clipped": share(self._clipped, max(self._total, 1))}

    def __repr__(self) -> str:
        return f"ValueClip(max_value={self.max_value!r})"
