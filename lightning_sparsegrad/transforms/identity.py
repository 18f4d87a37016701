"""The null object."""

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

    handles_shards = True

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:  # noqa: ARG002
        return later

    def apply_(self, gradients: Gradients, window: Window) -> None:
        pass
