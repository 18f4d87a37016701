"""Global norm clipping: the whole gradient is one component."""

from lightning_sparsegrad.components import Component, NamedParameters, partition
from lightning_sparsegrad.functional.clipping import NormKind
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.clips.norm_clip import NormClip


class GlobalNormClip(NormClip):
    r"""Clip the norm of the whole gradient, as `torch.nn.utils.clip_grad_norm_` does.

    .. math:: \tilde g = g \cdot \min\left(1, \frac{\text{max\_norm}}{\lVert g \rVert + 10^{-6}}\right)

    After a mask in a chain, dropped entries do not count towards the norm.

    Args:
        max_norm: Threshold in true gradient units, positive; infinity clips nothing; or a schedule.
        norm_type: 2.0 or infinity.
        norm: `"blockwise"`: norms are within 1e-6 of their float64 values. `"torch"`: they equal those of
            `torch.nn.utils.clip_grad_norm_` to the last bit, which on CPUs are off by 0.05% in a float32 tensor of 12
            million entries. On accelerators both are the same.

    Raises:
        ConfigurationError: For an argument outside its range.

    References:
        R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", 2013,
        https://arxiv.org/abs/1211.5063, algorithm 1.

    Example:
        >>> GlobalNormClip(max_norm=1.0)
        GlobalNormClip(max_norm=1)
    """

    def __init__(self, max_norm: float | Schedule, *, norm_type: float = 2.0, norm: NormKind = "blockwise") -> None:
        super().__init__(max_norm, norm_type=norm_type, norm=norm)

    def resolve(self, parameters: NamedParameters) -> list[tuple[Component, Schedule]]:
        return [(component, self.max_norm) for component in partition(parameters, "global")]
