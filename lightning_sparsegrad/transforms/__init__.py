"""The strategies, one per file: masks that drop gradients, clips that bound them, and `Chain` to compose them.

A new strategy is a file in one of the folders, an export here, an overlay in `configs/gradient` and a golden row in
`tests/transforms/golden`; `python -m tests.generate` then writes the tables, and `pytest tests/transforms -k ITS_NAME`
checks it against the contract of all strategies.
"""

from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window
from lightning_sparsegrad.transforms.chain import Chain
from lightning_sparsegrad.transforms.clips.ada_gc import AdaGC
from lightning_sparsegrad.transforms.clips.adaptive_gradient_clip import AdaptiveGradientClip
from lightning_sparsegrad.transforms.clips.adaptive_norm_clip import AdaptiveNormClip
from lightning_sparsegrad.transforms.clips.auto_clip import AutoClip
from lightning_sparsegrad.transforms.clips.component_clip import ComponentClip
from lightning_sparsegrad.transforms.clips.component_norm_clip import ComponentNormClip
from lightning_sparsegrad.transforms.clips.global_norm_clip import GlobalNormClip
from lightning_sparsegrad.transforms.clips.norm_clip import NormClip
from lightning_sparsegrad.transforms.clips.spike_skip import SpikeSkip
from lightning_sparsegrad.transforms.clips.value_clip import ValueClip
from lightning_sparsegrad.transforms.clips.zclip import ZClip
from lightning_sparsegrad.transforms.freezes.bias_only import BiasOnly
from lightning_sparsegrad.transforms.freezes.freeze import Freeze
from lightning_sparsegrad.transforms.freezes.gradual_unfreezing import GradualUnfreezing
from lightning_sparsegrad.transforms.freezes.head_only import HeadOnly
from lightning_sparsegrad.transforms.freezes.layer_mask import LayerMask
from lightning_sparsegrad.transforms.identity import Identity
from lightning_sparsegrad.transforms.masks.fixed_mask import FixedMask
from lightning_sparsegrad.transforms.masks.grad_drop import GradDrop
from lightning_sparsegrad.transforms.masks.layer_grad_drop import LayerGradDrop
from lightning_sparsegrad.transforms.masks.mask import Mask
from lightning_sparsegrad.transforms.masks.sparse_mask import SparseMask
from lightning_sparsegrad.transforms.masks.trainable_rows import TrainableRows
from lightning_sparsegrad.transforms.updates.update_transform import UpdateTransform

__all__ = [
    "AdaGC",
    "AdaptiveGradientClip",
    "AdaptiveNormClip",
    "AutoClip",
    "BiasOnly",
    "Chain",
    "ComponentClip",
    "ComponentNormClip",
    "FixedMask",
    "Freeze",
    "GlobalNormClip",
    "GradDrop",
    "GradientTransform",
    "Gradients",
    "GradualUnfreezing",
    "HeadOnly",
    "Identity",
    "LayerGradDrop",
    "LayerMask",
    "Mask",
    "NormClip",
    "SparseMask",
    "SpikeSkip",
    "TrainableRows",
    "UpdateTransform",
    "ValueClip",
    "Window",
    "ZClip",
]
