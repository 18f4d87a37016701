"""The components of a model: its parameters by name, its layers by depth, its fused projections by part.

`NamedParameters` is the view of a model that every transform is bound to. The other files answer three questions: which
names a pattern matches (`_patterns`), how deep a parameter lies (`layers`, read off the module `_tree`), and which
tensors and slices belong together (`partition`, and `projections` for fused ones).
"""

from lightning_sparsegrad.components._tree import find_blocks
from lightning_sparsegrad.components.layers import Layers, find_layers
from lightning_sparsegrad.components.parameters import NamedParameters
from lightning_sparsegrad.components.partition import (
    Component,
    ComponentSpec,
    check_components,
    partition,
    without_split,
)
from lightning_sparsegrad.components.projections import FusedProjection, Part, output_dim

__all__ = [
    "Component",
    "ComponentSpec",
    "FusedProjection",
    "Layers",
    "NamedParameters",
    "Part",
    "check_components",
    "find_blocks",
    "find_layers",
    "output_dim",
    "partition",
    "without_split",
]
