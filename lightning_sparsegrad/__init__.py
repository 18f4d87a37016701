"""Gradient masking and clipping for fine-tuning pretrained transformers.

The way of one gradient, and where each step lives:

- `main`: the command line builds a module and a data module (`modules`, `data`) and a Trainer runs them;
- `driver`: tells an engine what the Trainer does, for `SparseGradModule` and `GradientTransformCallback` alike;
- `resume`: what a checkpoint needs for a run to go on as if it had never stopped, for `ExactResume`;
- `engine`: applies a transform once per optimizer step;
- `transforms`: the strategies, bound to the `components` of a model, with rates and thresholds from `schedules`;
- `functional`: the kernels, on lists of tensors.

Beside it: `skipping` leaves out work on what will be dropped, `nonfinite` finds gradients that are not finite, `meter`
measures what a transform does to each component, `resume` is what `ExactResume` in `callbacks` keeps in a checkpoint,
`metrics` has what torchmetrics has not, `hub` helps where no model or data can be fetched, `parser`, `linked` and
`diagnosis` read the command line, `results` and `outcome` make the tables it prints, `studies` runs it many times, and
`export` writes a checkpoint as a folder for `transformers`.

Imports point that way only. Everything up to the engine needs torch alone: names that need lightning or transformers
load them when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad import _moved  # noqa: F401  # finds what was elsewhere in 0.1
from lightning_sparsegrad.components import Component, FusedProjection, NamedParameters, partition
from lightning_sparsegrad.engine import GradientEngine, GradientMeter
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.schedules import Constant, Cosine, Linear, Schedule, TopDown
from lightning_sparsegrad.transforms import *  # noqa: F403  # a new strategy is exported there, once
from lightning_sparsegrad.transforms import __all__ as _transforms

if TYPE_CHECKING:
    from lightning_sparsegrad.callbacks import (
        ExactResume,
        GradientMonitor,
        GradientTransformCallback,
        PredictionWriter,
        PretrainedDistance,
        ResultsTable,
    )
    from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
    from lightning_sparsegrad.cli.sparsegrad_cli import SparseGradCLI
    from lightning_sparsegrad.data import (
        EmojiTopicsDataModule,
        GlueDataModule,
        QuestionsDataModule,
        RankingsDataModule,
        TextDataModule,
        UnrepeatedSampler,
        ValenceDataModule,
        WordsDataModule,
        XglueDataModule,
    )
    from lightning_sparsegrad.export import export_checkpoint
    from lightning_sparsegrad.modules import (
        ExtractiveQuestionAnswering,
        PointwiseRanking,
        SequenceClassification,
        SparseGradModule,
        TokenClassification,
    )

_LAZY = {
    "EmojiTopicsDataModule": "data",
    "ExactResume": "callbacks",
    "ExtractiveQuestionAnswering": "modules",
    "GlueDataModule": "data",
    "GradientMonitor": "callbacks",
    "GradientTransformCallback": "callbacks",
    "PointwiseRanking": "modules",
    "PredictionWriter": "callbacks",
    "PretrainedDistance": "callbacks",
    "QuestionsDataModule": "data",
    "RankingsDataModule": "data",
    "ResultsTable": "callbacks",
    "SequenceClassification": "modules",
    "SparseGradArgumentParser": "cli.parser",
    "SparseGradCLI": "cli.sparsegrad_cli",
    "SparseGradModule": "modules",
    "TextDataModule": "data",
    "TokenClassification": "modules",
    "UnrepeatedSampler": "data",
    "ValenceDataModule": "data",
    "WordsDataModule": "data",
    "XglueDataModule": "data",
    "export_checkpoint": "export",
}

__all__ = [
    "Component",
    "ConfigurationError",
    "Constant",
    "Cosine",
    "EmojiTopicsDataModule",
    "ExactResume",
    "ExtractiveQuestionAnswering",
    "FusedProjection",
    "GlueDataModule",
    "GradientEngine",
    "GradientMeter",
    "GradientMonitor",
    "GradientTransformCallback",
    "Linear",
    "NamedParameters",
    "PointwiseRanking",
    "PredictionWriter",
    "PretrainedDistance",
    "QuestionsDataModule",
    "RankingsDataModule",
    "ResultsTable",
    "Schedule",
    "SequenceClassification",
    "SparseGradArgumentParser",
    "SparseGradCLI",
    "SparseGradModule",
    "TextDataModule",
    "TokenClassification",
    "TopDown",
    "UnrepeatedSampler",
    "ValenceDataModule",
    "WordsDataModule",
    "XglueDataModule",
    "export_checkpoint",
    "partition",
]
__all__ += _transforms


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
