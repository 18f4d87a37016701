"""Gradual unfreezing: layers join training from the top down."""

from collections.abc import Sequence
from typing import Literal

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.schedules import Linear, Schedule, as_rate, refuse_depth
from lightning_sparsegrad.transforms.base import Window, check_every, require_epoch
from lightning_sparsegrad.transforms.freezes.layer_mask import LayerMask


class GradualUnfreezing(LayerMask):
    r"""Train the head first, and let the layers below it join one by one, the topmost first.

    At progress :math:`t`, the top :math:`k = \min(L, \lfloor s(t) (L + 1) \rfloor)` of :math:`L` layers train, where
    :math:`s` is the schedule: with the default, the training has :math:`L + 1` phases of equal length; in the first,
    the head trains alone, in the last, all layers do. A layer that has not joined ends without a gradient: its weights
    stay as they are, bit for bit.

    Only layers in which something trains are counted and take a turn. Where nothing trains behind the last block, as in
    a language model with adapters in its blocks, the topmost of them takes the role of the head: it trains from the
    start and is not counted.

    Args:
        unfreeze_every: Number of optimizer steps after which the next layer joins, or `"epoch"` for one layer per
            epoch; `None` to follow `schedule`.
        schedule: Share of the layers that train over training progress, in [0, 1]; `Linear(0, 1)` by default.
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found.
        head: Globs of the head, if it is not detected correctly.

    Raises:
        ConfigurationError: At construction, for an argument outside its range, or if both `unfreeze_every` and
            `schedule` are given; when bound, for a model without layers or in which nothing trains, or a `head` in
            which nothing trains.

    Note:
        In Howard & Ruder one layer joins per epoch, as with `unfreeze_every="epoch"`; the default spreads them evenly
        over the training.

    References:
        J. Howard and S. Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018,
        https://arxiv.org/abs/1801.06146, section 3.3.

    Example:
        >>> GradualUnfreezing(unfreeze_every="epoch")
        GradualUnfreezing(unfreeze_every='epoch')
    """

    def __init__(
        self,
        *,
        unfreeze_every: int | Literal["epoch"] | None = None,
        schedule: Schedule | None = None,
        layers: list[str] | None = None,
        head: list[str] | str | None = None,
    ) -> None:
        super().__init__(layers=layers, head=head)
        check_every("unfreeze_every", unfreeze_every)
        if unfreeze_every is not None and schedule is not None:
            raise ConfigurationError(
                f"Parameter `schedule` should be omitted if `unfreeze_every` is given. Found "
                f"`schedule = {schedule}`, `unfreeze_every = {unfreeze_every!r}`."
            )
        self.unfreeze_every = unfreeze_every
        self.schedule = as_rate("schedule", Linear(0.0, 1.0) if schedule is None else schedule)
        refuse_depth("schedule", self.schedule)

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.schedule,) if self.unfreeze_every is None else ()

    def dropped_depths(self, window: Window) -> frozenset[int]:
        count = len(self.below)
        if self.unfreeze_every is None:
            joined = int(self.schedule(window.progress) * (count + 1))
        elif self.unfreeze_every == "epoch":
            joined = require_epoch("unfreeze_every", window)
        else:
            joined = window.step // self.unfreeze_every
        waiting = self.below[: max(0, count - joined)]
        lowest = [*self.below, self.top][len(waiting)]  # the lowest layer that trains
        return frozenset(range(lowest)) if waiting else frozenset()

    def __repr__(self) -> str:
        follows = (
            f"schedule={self.schedule!r}" if self.unfreeze_every is None else f"unfreeze_every={self.unfreeze_every!r}"
        )
        return f"GradualUnfreezing({', '.join([follows, *self._patterns()])})"
