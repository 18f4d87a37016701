"""The strategies, one per file: masks that drop gradients, clips that bound them, and `Chain` to compose them."""

from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window
from lightning_sparsegrad.transforms.chain import Chain
from lightning_sparsegrad.transforms.component_norm_clip import ComponentNormClip
from lightning_sparsegrad.transforms.global_norm_clip import GlobalNormClip
from lightning_sparsegrad.transforms.grad_drop import GradDrop
from lightning_sparsegrad.transforms.gradual_unfreezing import GradualUnfreezing
from lightning_sparsegrad.transforms.head_only import HeadOnly
from lightning_sparsegrad.transforms.identity import Identity
from lightning_sparsegrad.transforms.layer_grad_drop import LayerGradDrop
from lightning_sparsegrad.transforms.value_clip import ValueClip

__all__ = [
    "Chain",
    "ComponentNormClip",
    "GlobalNormClip",
    "GradDrop",
    "GradientTransform",
    "Gradients",
    "GradualUnfreezing",
    "HeadOnly",
    "Identity",
    "LayerGradDrop",
    "ValueClip",
    "Window",
]
