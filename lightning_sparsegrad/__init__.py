"""Gradient masking and clipping for fine-tuning pretrained transformers.

Each folder is one thing, and imports go one way, down this list:

- `main`: dispatches a command line to one of the next five;
- `studies`: comparisons of many runs;
- `calibrate`: chooses which entries train, by the gradients of single samples, and writes a mask file;
- `explain`: describes what a strategy will do to a model, before training;
- `export`: turns a checkpoint into a folder for `transformers`, or into the delta to its base model;
- `cli`: `SparseGradCLI`, its parser, its one-line errors, stored configs, the table after a fit;
- `callbacks`: the engine for any LightningModule, and what a fit writes and records;
- `modules`: `SparseGradModule`, which owns an engine, and one task per file;
- `data`: rows of text, tokenised, cached and padded;
- `metrics`: metrics that torchmetrics lacks, and the tables of an evaluation;
- `hub`: names of models and data, and help where nothing can be downloaded;
- `resume`: what a checkpoint needs for a fit to continue as if it had never stopped;
- `untrusted`: limits on what an untrusted config, checkpoint or text can make this process do;
- `files`: atomic writes, and reads that verify checksums;
- `loops`: adapters of training loops, which report to an engine where training stands.

Everything below imports torch alone:

- `engine`: applies a transform to the whole gradient, once per optimizer step;
- `transforms`: the strategies: masks, clips, freezes, and chains of them;
- `components`: the layers, projections and other sets of parameters of a model;
- `functional`: the kernels, on lists of tensors;
- `schedules`: rates and thresholds that change with the step or the depth;
- `errors`: the error for what a user can fix.

Names are imported on first use, because the command line has to set a few things before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad import _moved

__version__ = "0.2.0"

# the exports of each package, listed so that they are known before it is imported; `transforms` exports all
_LAZY = {
    "callbacks": "ExactResume GradientMonitor GradientTransformCallback PredictionWriter PretrainedDistance "
    "ProgressLines ResultsTable",
    "cli": "SparseGradArgumentParser SparseGradCLI",
    "components": "Component FusedProjection NamedParameters partition",
    "data": "EmojiTopicsDataModule GlueDataModule QuestionsDataModule RankingsDataModule TextDataModule "
    "UnrepeatedSampler ValenceDataModule WordsDataModule XglueDataModule",
    "engine": "GradientEngine GradientMeter",
    "errors": "ConfigurationError",
    "export": "export_checkpoint export_delta load_delta save_delta",
    "loops.accelerate_adapter": "AccelerateAdapter",
    "loops.fabric_adapter": "FabricAdapter",
    "loops.transformers_callback": "TransformersCallback",
    "loops.transformers_mixin": "TransformersMixin",
    "modules": "ExtractiveQuestionAnswering PointwiseRanking SequenceClassification SparseGradModule "
    "TokenClassification",
    "schedules": "Constant Cosine Linear Schedule TopDown",
}
_PACKAGE_OF = {name: package for package, names in _LAZY.items() for name in names.split()}
_OF_TORCH = ("components", "engine", "errors", "functional", "schedules", "transforms")  # once imported from here

if TYPE_CHECKING:
    from lightning_sparsegrad.callbacks import *  # noqa: F403
    from lightning_sparsegrad.cli import *  # noqa: F403
    from lightning_sparsegrad.components import *  # noqa: F403
    from lightning_sparsegrad.data import *  # noqa: F403
    from lightning_sparsegrad.engine import *  # noqa: F403
    from lightning_sparsegrad.errors import ConfigurationError as ConfigurationError
    from lightning_sparsegrad.export import *  # noqa: F403
    from lightning_sparsegrad.loops.accelerate_adapter import AccelerateAdapter as AccelerateAdapter
    from lightning_sparsegrad.loops.fabric_adapter import FabricAdapter as FabricAdapter
    from lightning_sparsegrad.loops.transformers_callback import TransformersCallback as TransformersCallback
    from lightning_sparsegrad.loops.transformers_mixin import TransformersMixin as TransformersMixin
    from lightning_sparsegrad.modules import *  # noqa: F403
    from lightning_sparsegrad.schedules import Constant as Constant
    from lightning_sparsegrad.schedules import Cosine as Cosine
    from lightning_sparsegrad.schedules import Linear as Linear
    from lightning_sparsegrad.schedules import Schedule as Schedule
    from lightning_sparsegrad.schedules import TopDown as TopDown
    from lightning_sparsegrad.transforms import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name in _PACKAGE_OF:
        return getattr(import_module(f"{__name__}.{_PACKAGE_OF[name]}"), name)
    if name in _OF_TORCH:
        return import_module(f"{__name__}.{name}")
    if name == "__all__" or not name.startswith("_"):
        transforms = import_module(f"{__name__}.transforms")
        if name == "__all__":
            return [*_PACKAGE_OF, *transforms.__all__]
        if name in transforms.__all__:
            return getattr(transforms, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))


_moved.keep_attributes(import_module(__name__))
