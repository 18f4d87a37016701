"""Callbacks: the engine for any LightningModule."""

from lightning_sparsegrad.callbacks.gradient_transform import GradientTransformCallback

__all__ = ["GradientTransformCallback"]
