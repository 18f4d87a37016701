"""The base class of strategies that drop whole tensors."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window, share


class Freeze(GradientTransform):
    """Base class of strategies that drop whole tensors and leave the others unchanged; a subclass states `dropped`.

    A dropped tensor ends without a gradient: its weights stay as they are, bit for bit.
    """

    on_shards = True

    def __init__(self) -> None:
        self._kept: tuple[int, int] = (0, 0)

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        parameters.refuse_moving(self)

    @abstractmethod
    def dropped(self, window: Window) -> frozenset[str]:
        """Return the tensors whose whole gradient is dropped in a window; known before its forward pass."""

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return {}

    def apply_(self, gradients: Gradients, window: Window) -> None:
        gradients.lose(window.dropped_by(self), by=self)  # a no-op, unless another strategy calls this one
        kept = gradients.numel()
        self._kept = kept, kept + gradients.lost_by(self)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`kept`: the share of gradient entries kept."""
        return {"kept": share(*self._kept)}
