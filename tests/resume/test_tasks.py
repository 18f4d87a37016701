"""Tasks of the command line resume within an epoch, with several validation loaders and rows grouped by length."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_sparsegrad import SparseGradCLI
from tests import hub
from tests.resume.runs import THOROUGH

CONFIGS = Path(__file__).parents[2] / "configs" / "xglue"
SAVE = "--trainer.callbacks"

pytestmark = [pytest.mark.resume, pytest.mark.filterwarnings("ignore:The dirpath has changed")]


@pytest.mark.parametrize("task", ["mlqa", pytest.param("wpr", marks=pytest.mark.long)])
def test_a_task_goes_on_bit_for_bit(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    encoder = hub.tiny_encoder(tmp_path / "encoder", layers=1)
    data = hub.write_xglue(tmp_path / "data", task, rows=9)

    def fit(folder: str, *more: str) -> tuple[dict[str, Tensor], dict[str, float]]:
        cli = SparseGradCLI(
            args=[
                *("fit", f"--config={CONFIGS / task}.yaml", f"--data.dataset={data}", "--data.languages=[en,de]"),
                *(f"--model.model_name_or_path={encoder}", f"--trainer.default_root_dir={tmp_path / folder}"),
                *("--data.batch_size=3", "--data.group_by_length=true", "--trainer.val_check_interval=2"),
                *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.logger=false"),
                *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
                *(f"{SAVE}=lightning.pytorch.callbacks.ModelCheckpoint", f"{SAVE}.save_top_k=-1"),
                *(f"{SAVE}.every_n_train_steps=1", "--trainer.num_sanity_val_steps=0", *more),
            ]
        )
        metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
        return {name: weight.detach().clone() for name, weight in cli.model.named_parameters()}, metrics

    weights, metrics = fit("whole")
    assert "val/loss/mean_unseen" in metrics
    for step in (1, 4) if THOROUGH else (4,):
        (path,) = (tmp_path / "whole").rglob(f"*step={step}.ckpt")
        again, scores = fit(f"from {step}", f"--ckpt_path={path}")
        assert scores == metrics
        assert all(torch.equal(again[name], weight) for name, weight in weights.items())
