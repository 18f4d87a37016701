"""The strategy that changes nothing."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window


class Identity(GradientTransform):
    r"""Leave every gradient as it is: plain fine-tuning.

    .. math:: \tilde g = g

    Example:
        >>> import torch
        >>> from lightning_sparsegrad import GradientEngine
        >>> engine = GradientEngine(torch.nn.Linear(2, 1), Identity())
    """

    on_shards = True

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return {}

    def apply_(self, gradients: Gradients, window: Window) -> None:
        pass
