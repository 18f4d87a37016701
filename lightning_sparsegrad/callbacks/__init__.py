"""Callbacks: the engine for any LightningModule, and an exact resume for any fit."""

from lightning_sparsegrad.callbacks.exact_resume import ExactResume
from lightning_sparsegrad.callbacks.gradient_transform import GradientTransformCallback

__all__ = ["ExactResume", "GradientTransformCallback"]
