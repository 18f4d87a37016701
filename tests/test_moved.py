"""Modules of 0.1 by their old names: in a program, a config, a checkpoint and a pickle."""

import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest
import torch

import lightning_sparsegrad
from lightning_sparsegrad import GradDrop, GradientEngine, GradientTransform, SparseGradArgumentParser, _moved
from lightning_sparsegrad.untrusted._imports import named_by_checkpoint, require_importable
from tests.cases import cases

OURS = "lightning_sparsegrad"
# the public classes of 0.1, by the modules that held them
PUBLIC = [
    ("callbacks.exact_resume", "ExactResume"),
    ("callbacks.gradient_monitor", "GradientMonitor"),
    ("callbacks.gradient_transform", "GradientTransformCallback"),
    ("callbacks.prediction_writer", "PredictionWriter"),
    ("callbacks.pretrained_distance", "PretrainedDistance"),
    ("callbacks.results_table", "ResultsTable"),
    ("components.parameters", "NamedParameters"),
    ("components.partition", "Component"),
    ("components.projections", "FusedProjection"),
    ("data.base", "TokenizedDataModule"),
    ("data.emoji_topics", "EmojiTopicsDataModule"),
    ("data.glue", "GlueDataModule"),
    ("data.questions", "QuestionsDataModule"),
    ("data.rankings", "RankingsDataModule"),
    ("data.text", "TextDataModule"),
    ("data.valence", "ValenceDataModule"),
    ("data.words", "WordsDataModule"),
    ("data.xglue", "XglueDataModule"),
    ("engine", "GradientEngine"),
    ("errors", "ConfigurationError"),
    ("main", "SparseGradArgumentParser"),
    ("main", "SparseGradCLI"),
    ("meter", "GradientMeter"),
    ("modules.base", "SparseGradModule"),
    ("modules.extractive_question_answering", "ExtractiveQuestionAnswering"),
    ("modules.linear_decay", "LinearDecay"),
    ("modules.pointwise_ranking", "PointwiseRanking"),
    ("modules.sequence_classification", "SequenceClassification"),
    ("modules.token_classification", "TokenClassification"),
    ("modules.transformer", "TransformerTask"),
    ("parser", "SparseGradArgumentParser"),
    ("schedules", "Constant"),
    ("schedules", "Cosine"),
    ("schedules", "Linear"),
    ("schedules", "Schedule"),
    ("schedules", "TopDown"),
    ("transforms.base", "GradientTransform"),
    ("transforms.base", "Gradients"),
    ("transforms.base", "Window"),
    ("transforms.chain", "Chain"),
    ("transforms.component_norm_clip", "ComponentNormClip"),
    ("transforms.global_norm_clip", "GlobalNormClip"),
    ("transforms.grad_drop", "GradDrop"),
    ("transforms.gradual_unfreezing", "GradualUnfreezing"),
    ("transforms.head_only", "HeadOnly"),
    ("transforms.identity", "Identity"),
    ("transforms.layer_grad_drop", "LayerGradDrop"),
    ("transforms.value_clip", "ValueClip"),
]
# classes that users had no call to name, and that configs, programs or pickles may hold all the same
OTHERS = [
    ("components.patterns", "as_patterns"),
    ("data.loaded", "LoadedDataModule"),
    ("data.order", "LengthGroupedSampler"),
    ("functional.fused", "fused_mask_"),
    ("functional.sharding", "shard_of"),
    ("learning_rates", "get_cosine_schedule_with_warmup"),
    ("nonfinite", "first_nonfinite"),
    ("skipping", "WorkSkipper"),
    ("studies.histories", "draw_gradients"),
    ("studies.recorder", "RunRecorder"),
    ("transforms.draws", "draw_dropped"),
    ("transforms.draws", "draw_key"),
    ("transforms.layer_mask", "LayerMask"),
    ("transforms.norm_clip", "NormClip"),
]


PICKLED = (  # `GradDrop(0.25, granularity="row", seed=3)`, by 0.1
    b"ccopy_reg\n_reconstructor\np0\n(clightning_sparsegrad.transforms.grad_drop\nGradDrop\np1\n"
    b"c__builtin__\nobject\np2\nNtp3\nRp4\n(dp5\nVrate\np6\ng0\n(clightning_sparsegrad.schedules\n"
    b"Constant\np7\ng2\nNtp8\nRp9\n(dp10\nVvalue\np11\nF0.25\nsbsVresample_every\np12\nI1\nsVgranularity\n"
    b"p13\nVrow\np14\nsVcomponents\np15\nNsVrescale\np16\nI00\nsVinclude\np17\nNsVexclude\np18\nNsVseed\n"
    b"p19\nI3\nsVfused\np20\nNsV_masked\np21\nI0\nsV_pieces\np22\n(dp23\nsV_heights\np24\n(dp25\n"
    b"sV_trainable\np26\nc__builtin__\nfrozenset\np27\n((lp28\ntp29\nRp30\nsV_last\np31\nNsb."
)


@pytest.fixture(autouse=True)
def not_yet_imported() -> Iterator[None]:
    """Forget the old names before each test and after it, as a module is executed once in a process."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    for name in _moved._MOVED:
        sys.modules.pop(f"{OURS}.{name}", None)
        parent, _, last = f"{OURS}.{name}".rpartition(".")
        with suppress(AttributeError):
            delattr(sys.modules.get(parent, lightning_sparsegrad), last)


@cases(("module", "name"), PUBLIC + OTHERS)
def test_an_old_name_is_the_same_class_and_warns_once(module: str, name: str) -> None:
    _forget()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = getattr(import_module(f"{OURS}.{module}"), name)
        again = getattr(import_module(f"{OURS}.{module}"), name)
    assert first is again is getattr(import_module(first.__module__), name)
    if name in lightning_sparsegrad.__all__:
        assert first is getattr(lightning_sparsegrad, name)
    ours = [str(warning.message) for warning in caught if warning.category is DeprecationWarning]
    now = f"{OURS}.{_moved._MOVED.get(module, '')}"
    messages = [f"`{OURS}.{module}` has moved to `{now}`; the old name will be removed in 0.3"]
    assert ours == (messages if module in _moved._MOVED else [])


def test_the_warning_is_about_the_line_that_imports() -> None:
    with pytest.warns(DeprecationWarning, match="the old name will be removed in 0.3") as caught:
        from lightning_sparsegrad.transforms.grad_drop import GradDrop as Old  # type: ignore[import-not-found]
    assert Old is GradDrop
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("path", ["meter", "transforms.grad_drop", "transforms.layer_mask"])
def test_what_0_1_imported_with_the_package_is_an_attribute_of_it(path: str) -> None:
    with pytest.warns(DeprecationWarning, match="the old name will be removed in 0.3"):
        module = attrgetter(path)(lightning_sparsegrad)
    assert module is import_module(f"{OURS}.{_moved._MOVED[path]}")
    for package in (lightning_sparsegrad, lightning_sparsegrad.transforms):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'grad_drops'"):
            attrgetter("grad_drops")(package)


def test_every_name_that_is_kept_leads_somewhere() -> None:
    for name, now in _moved._MOVED.items():
        assert name not in _moved._MOVED.values()
        import_module(f"{OURS}.{now}")
        assert f"{OURS}.{name}" not in sys.modules  # it is none of today's


def test_there_is_no_module_that_there_never_was() -> None:
    with pytest.raises(ModuleNotFoundError, match="grad_drops"):
        import_module(f"{OURS}.transforms.grad_drops")
    with pytest.raises(ModuleNotFoundError, match="No module named 'meter'"):
        import_module("meter")


@cases(("module", "name"), PUBLIC + OTHERS)
def test_a_checkpoint_may_name_a_class_by_its_old_name(module: str, name: str, tmp_path: Path) -> None:
    _forget()
    path = f"{OURS}.{module}.{name}"
    require_importable(path)
    with named_by_checkpoint(tmp_path / "any.ckpt"):
        require_importable(path)
    assert module not in _moved._MOVED or f"{OURS}.{module}" not in sys.modules  # nothing is imported to see it


def test_a_config_may_name_a_class_by_its_old_name() -> None:
    parser = SparseGradArgumentParser(exit_on_error=False)
    parser.add_argument("--strategy", type=GradientTransform)
    named = {"class_path": f"{OURS}.transforms.grad_drop.GradDrop", "init_args": {"rate": 0.25}}
    with pytest.warns(DeprecationWarning, match="`lightning_sparsegrad.transforms.masks.grad_drop`; the old"):
        config = parser.parse_object({"strategy": named})
    assert repr(parser.instantiate_classes(config).strategy) == repr(GradDrop(0.25))


def test_a_pickle_names_a_class_of_0_1() -> None:
    now, old = (f"{OURS}.transforms.{name}".encode() for name in ("masks.grad_drop", "grad_drop"))
    pickled = pickle.dumps(GradDrop(0.25), protocol=0)
    assert now in pickled
    with pytest.warns(DeprecationWarning, match="will be removed in 0.3"):
        restored = pickle.loads(pickled.replace(now, old))  # noqa: S301  # our own
    assert pickle.dumps(restored, protocol=0) == pickled


def test_a_strategy_that_0_1_has_pickled_works() -> None:
    with pytest.warns(DeprecationWarning, match="will be removed in 0.3"):
        restored = pickle.loads(PICKLED)  # noqa: S301  # our own
    assert type(restored) is GradDrop
    left = []
    for strategy in (restored, GradDrop(0.25, granularity="row", seed=3), GradDrop(0.25, granularity="row", seed=4)):
        model = torch.nn.Linear(1, 64, bias=False)
        engine = GradientEngine(model, strategy, seed=0)
        with engine.window(step=0):
            model(torch.ones(1, 1)).sum().backward()
            engine.apply_()
        assert model.weight.grad is not None
        left.append(model.weight.grad.flatten().tolist())
    assert left[0] == left[1] != left[2]
