"""The labels of the data, the model and a checkpoint are the same ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_sparsegrad import SequenceClassification, SparseGradCLI, TokenClassification
from lightning_sparsegrad.main import main
from tests import hub


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return hub.tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def texts(folder: Path, *labels: str) -> str:
    path = folder / f"{'-'.join(labels)}.csv"
    path.write_text("text,label\n" + "".join(f"day,{label}\n" for label in labels))
    return f"--data.data_files={{train: {path}, validation: {path}}}"


def words(folder: Path) -> str:
    path = folder / "a.conll"
    path.write_text("day O\nrain B-X\n\n")
    return f"--data.data_files={{train: {path}, validation: {path}}}"


def arguments(folder: Path, encoder: str, model: str = "SequenceClassification") -> list[str]:
    return [
        *(f"--model={model}", f"--model.model_name_or_path={encoder}", "--model.gradient_transform=GradDrop"),
        *("--model.gradient_transform.rate=0.5", f"--trainer.default_root_dir={folder}", "--trainer.logger=false"),
        *("--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"),
        *("--trainer.enable_model_summary=false", "--trainer.num_sanity_val_steps=0"),
    ]


def fitted(*more: str) -> tuple[str, dict[str, torch.Tensor]]:
    cli = SparseGradCLI(args=["fit", *more])
    weights = {name: weight.detach().clone() for name, weight in cli.model.named_parameters()}
    return cli.trainer.checkpoint_callback.best_model_path, weights  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [SequenceClassification, TokenClassification])
def test_a_checkpoint_of_the_command_line_can_be_loaded(
    tmp_path: Path, encoder: str, kind: type[LightningModule]
) -> None:
    data = (
        ["--data=TextDataModule", texts(tmp_path, "bad", "good")]
        if kind is SequenceClassification
        else ["--data=WordsDataModule", words(tmp_path)]
    )
    path, weights = fitted(*arguments(tmp_path, encoder, kind.__name__), *data)
    loaded = kind.load_from_checkpoint(path)
    assert type(loaded) is kind
    task: Any = loaded
    assert repr(task.gradient_transform) == "GradDrop(rate=0.5)"
    assert task.model.config.num_labels == 2
    for name, weight in task.named_parameters():
        assert torch.equal(weight, weights[name])


def test_a_checkpoint_is_refused_on_other_labels(
    tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = fitted(*arguments(tmp_path, encoder), "--data=TextDataModule", texts(tmp_path, "bad", "good"))
    quiet = [f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    main(["validate", "--ckpt_path", path, *quiet, texts(tmp_path, "good", "bad")])  # in another order of rows
    for labels in (("good", "worse"), ("bed", "good")):
        with pytest.raises(SystemExit):
            main(["validate", "--ckpt_path", path, *quiet, texts(tmp_path, *labels)])
        error = capsys.readouterr().err
        assert "should be those that the checkpoint was trained on, in the order of their ids, `bad`, `good`" in error
        assert f"Found `{labels[0]}`, `{labels[1]}`" in error


def test_labels_given_to_the_model_are_those_of_the_data(
    tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments(tmp_path, encoder), "--data=TextDataModule", texts(tmp_path, "bad", "good")]
    fitted(*given, "--model.num_labels=2")
    with pytest.raises(SystemExit):
        main(["fit", *given, "--model.num_labels=5"])
    message = (
        "Parameter `num_labels` of the model should be that of the data, `2`, or be left out. Found `num_labels = 5`"
    )
    assert message in capsys.readouterr().err
