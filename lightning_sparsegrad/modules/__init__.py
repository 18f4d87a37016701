"""LightningModules: the base that masks and clips gradients, then one task per file."""

from lightning_sparsegrad.modules.base import SparseGradModule
from lightning_sparsegrad.modules.linear_decay import LinearDecay
from lightning_sparsegrad.modules.sequence_classification import SequenceClassification

__all__ = ["LinearDecay", "SequenceClassification", "SparseGradModule"]
