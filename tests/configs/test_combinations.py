"""Each kind of task with every strategy overlay, and the other overlays, instantiates the objects in the files."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from lightning_sparsegrad import SparseGradCLI
from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.modules import TransformerTask
from tests import hub

ROOT = Path(__file__).parents[2] / "configs"
TASKS = sorted(str(path.relative_to(ROOT)) for name in ("glue", "xglue") for path in (ROOT / name).glob("*.yaml"))
STRATEGIES = sorted(path.stem for path in (ROOT / "gradient").glob("*.yaml"))
MODELS = sorted(path.stem for path in (ROOT / "models").glob("*.yaml"))
# each data module with another strategy
SOME = [
    pair
    for pair in zip(TASKS, cycle(STRATEGIES), strict=False)
    if Path(pair[0]).stem in {"ax", "cola", "stsb", "mlqa", "ner", "wpr", "xnli"}
]


def classes_of(task: str) -> tuple[str, str]:
    """Return the classes of the model and of the data that a task names."""
    config = yaml.safe_load((ROOT / task).read_text())
    return config["model"]["class_path"], config["data"]["class_path"]


KINDS = [[task for task in TASKS if classes_of(task) == kind] for kind in sorted({*map(classes_of, TASKS)})]
# tasks of the same classes differ by values, on which no strategy depends: they take the strategies in turn
EVERY_KIND = [pair for tasks in KINDS for pair in zip(cycle(tasks), STRATEGIES, strict=False)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return hub.tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


class Built(SparseGradCLI):
    """A command line that stops before it runs."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def built(*files: str, encoder: str, more: tuple[str, ...] = ()) -> Built:
    arguments = [argument for file in files for argument in ("--config", str(ROOT / file))]
    quiet = ["--trainer.logger=false", f"--model.model_name_or_path={encoder}", *more]
    return Built(args=["fit", *arguments, "--trainer.accelerator=cpu", *quiet])


def named(value: Any) -> Iterator[str]:
    """Yield the strategy classes that an overlay names, outermost first."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"].rpartition(".")[2]
        for each in value.values():
            yield from named(each)


@pytest.mark.parametrize(
    ("task", "strategy"),
    [pytest.param(*pair, marks=() if pair in SOME else pytest.mark.long) for pair in sorted({*EVERY_KIND, *SOME})],
)
def test_a_task_with_a_strategy(task: str, strategy: str, encoder: str) -> None:
    overlay = f"gradient/{strategy}.yaml"
    cli = built(task, overlay, encoder=encoder)
    asked = yaml.safe_load((ROOT / task).read_text())
    wanted = yaml.safe_load((ROOT / overlay).read_text())["model"]["init_args"]["gradient_transform"]
    assert type(cli.model).__name__ == asked["model"]["class_path"]
    assert type(cli.datamodule).__name__ == asked["data"]["class_path"]
    assert isinstance(cli.model, TransformerTask)
    assert isinstance(cli.datamodule, TokenizedDataModule)
    assert cli.datamodule.task == Path(task).stem  # type: ignore[attr-defined]
    classes = list(named(wanted))
    assert type(cli.model.gradient_transform).__name__ == classes[0]
    assert all(name in repr(cli.model.gradient_transform) for name in classes)
    outputs = cli.model.model.config.num_labels
    assert outputs == cli.datamodule.num_labels


def test_a_model_overlay_names_a_model(encoder: str, subtests: pytest.Subtests) -> None:
    for model in MODELS:
        with subtests.test(model):
            asked = yaml.safe_load((ROOT / "models" / f"{model}.yaml").read_text())
            assert list(asked) == ["model"]
            assert list(asked["model"]["init_args"]) == ["model_name_or_path"]
            assert asked["model"]["init_args"]["model_name_or_path"].endswith(model.removeprefix("multilingual"))
    cli = built(TASKS[0], *(f"models/{model}.yaml" for model in MODELS), encoder=encoder)
    assert cli.model.model_name_or_path == encoder


def test_overlays_of_the_trainer(encoder: str) -> None:
    half = built(TASKS[0], "trainer/bf16.yaml", encoder=encoder)
    assert half.trainer.precision == "bf16-mixed"
    replicas = built(TASKS[0], "trainer/ddp.yaml", encoder=encoder, more=("--trainer.devices=2",))
    assert isinstance(replicas.trainer.strategy, DDPStrategy)
    assert replicas.trainer.strategy._ddp_kwargs["find_unused_parameters"]
    shards = built(TASKS[0], "trainer/fsdp2.yaml", encoder=encoder)
    assert isinstance(shards.trainer.strategy, ModelParallelStrategy)
    assert shards.trainer.num_devices == 2
