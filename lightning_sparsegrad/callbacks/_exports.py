"""All callbacks, in one import."""

from lightning_sparsegrad.callbacks.gradient_monitor import GradientMonitor
from lightning_sparsegrad.callbacks.gradient_transform import GradientTransformCallback
from lightning_sparsegrad.callbacks.prediction_writer import PredictionWriter
from lightning_sparsegrad.callbacks.pretrained_distance import PretrainedDistance
from lightning_sparsegrad.callbacks.progress_lines import ProgressLines
from lightning_sparsegrad.callbacks.results_table import ResultsTable
from lightning_sparsegrad.resume.exact_resume import ExactResume

__all__ = [
    "ExactResume",
    "GradientMonitor",
    "GradientTransformCallback",
    "PredictionWriter",
    "PretrainedDistance",
    "ProgressLines",
    "ResultsTable",
]
