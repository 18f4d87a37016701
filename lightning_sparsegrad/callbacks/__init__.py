"""Callbacks: the engine for any LightningModule, an exact resume for any fit, and a table of results."""

from lightning_sparsegrad.callbacks.exact_resume import ExactResume
from lightning_sparsegrad.callbacks.gradient_transform import GradientTransformCallback
from lightning_sparsegrad.callbacks.prediction_writer import PredictionWriter
from lightning_sparsegrad.callbacks.results_table import ResultsTable

__all__ = ["ExactResume", "GradientTransformCallback", "PredictionWriter", "ResultsTable"]
