"""What data tell a model about labels: what checkpoints keep of it, and what is refused where two sources differ."""

from pathlib import Path

import pytest
import torch

from lightning_sparsegrad import (
    ExtractiveQuestionAnswering,
    PointwiseRanking,
    SequenceClassification,
    SparseGradCLI,
    TokenClassification,
)
from lightning_sparsegrad.modules import TransformerTask
from tests import hub

CONFIGS = Path(__file__).parents[2] / "configs" / "xglue"
TASKS: dict[str, type[TransformerTask]] = {
    "xnli": SequenceClassification,
    "ner": TokenClassification,
    "mlqa": ExtractiveQuestionAnswering,
    "wpr": PointwiseRanking,
}
QUICK = [
    *("--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"),
    *(
        "--trainer.enable_model_summary=false",
        "--data.batch_size=3",
        "--data.languages=[en,de]",
        "--trainer.callbacks=null",
    ),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return hub.tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def fitted(task: str, encoder: str, *more: str) -> tuple[SparseGradCLI, str]:
    """Fit a task for a step, and return the run and its checkpoint."""
    data = hub.write_xglue(Path("data").absolute(), task, rows=6)
    given = [f"--config={CONFIGS / task}.yaml", f"--data.dataset={data}", f"--model.model_name_or_path={encoder}"]
    cli = SparseGradCLI(args=["fit", *given, *QUICK, "--trainer.max_steps=1", *more])
    (path,) = Path("checkpoints").iterdir()
    return cli, str(path)


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_of_the_command_line_loads_and_evaluates(task: str, encoder: str) -> None:
    cli, path = fitted(task, encoder)
    loaded = TASKS[task].load_from_checkpoint(path)
    weights = cli.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    assert repr(loaded.gradient_transform) == repr(cli.model.gradient_transform)
    tested = SparseGradCLI(args=["test", "--ckpt_path", path, *QUICK])
    assert {"test/loss/en", "test/loss/de"} <= set(tested.trainer.callback_metrics)
