"""The engine: applies a strategy to the whole gradient, exactly once per optimizer step."""

from lightning_sparsegrad.engine.description import Description
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.engine.gradient_meter import GradientMeter

__all__ = ["Description", "GradientEngine", "GradientMeter"]
