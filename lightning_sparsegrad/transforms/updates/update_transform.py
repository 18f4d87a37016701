"""The base class of strategies that act on the updates of the optimizer."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Phase, Window


class UpdateTransform(GradientTransform):
    """Base class of strategies that act in the update phase alone and leave gradients unchanged.

    A subclass acts in `before_step_` and `after_step_`, which see the weights before and after each step of an
    optimizer. In a chain it comes after the members that act on gradients.
    """

    phases: frozenset[Phase] = frozenset({"update"})

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:  # noqa: ARG002
        self.require_total_steps(total_steps)

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return {}

    def apply_(self, gradients: Gradients, window: Window) -> None:
        """Leave the gradients unchanged."""

    @abstractmethod
    def after_step_(self, weights: Mapping[str, Tensor], window: Window, happened: Tensor) -> None:
        """Act after the step of an optimizer, see `GradientTransform`."""
