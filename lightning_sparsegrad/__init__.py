"""Gradient masking and clipping for fine-tuning pretrained transformers.

Each folder is one thing, and imports go one way, down this list:

- `main`: hands a command line to one of the next three;
- `studies`: many runs, compared;
- `export`: a checkpoint as a folder for `transformers`;
- `cli`: `SparseGradCLI`, its parser, its one-line errors, stored configs, the table after a fit;
- `callbacks`: the engine for any LightningModule, and what a fit writes and records;
- `modules`: `SparseGradModule`, which owns an engine, and one task per file;
- `data`: rows of text, tokenised, cached and padded;
- `metrics`: those that torchmetrics has not, and the tables of an evaluation;
- `hub`: names of models and data, and what helps where none can be fetched;
- `resume`: what a checkpoint needs for a fit to continue as if it had never stopped;
- `untrusted`: what a config, a checkpoint or a text of any origin may have this process do;
- `files`: written whole or not at all, and read with their checksums;
- `loops`: the adapter of a training loop, which tells an engine where training stands.

What follows imports torch alone:

- `engine`: applies a transform to the whole gradient, once per optimizer step;
- `transforms`: the strategies: masks, clips, freezes, and chains of them;
- `components`: from a model to its layers, projections and other sets of parameters;
- `functional`: the kernels, on lists of tensors;
- `schedules`: rates and thresholds that change with the step or the depth;
- `errors`: what a user can mend.

Nothing is imported before a name is asked for: the command line has to settle some things before torch starts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad import _moved

__version__ = "0.2.0"

# what the packages export, written out to be known before they are imported; of `transforms`, everything
_LAZY = {
    "callbacks": "ExactResume GradientMonitor GradientTransformCallback PredictionWriter PretrainedDistance "
    "ProgressLines ResultsTable",
    "cli": "SparseGradArgumentParser SparseGradCLI",
    "components": "Component FusedProjection NamedParameters partition",
    "data": "EmojiTopicsDataModule GlueDataModule QuestionsDataModule RankingsDataModule TextDataModule "
    "UnrepeatedSampler ValenceDataModule WordsDataModule XglueDataModule",
    "engine": "GradientEngine GradientMeter",
    "errors": "ConfigurationError",
    "export": "export_checkpoint",
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
