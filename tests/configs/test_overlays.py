import gc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_sparsegrad import SparseGradCLI, SparseGradModule

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
OVERLAYS = {path.stem: str(path) for path in sorted((ROOT / "configs" / "gradient").glob("*.yaml"))}
STEPS = 6


class Recorder(Callback):
    """Keeps the gradients and weights that every optimizer step left behind."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor | None]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.statistics: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep_weights(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        named = list(pl_module.named_parameters())
        self.gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in named})
        assert isinstance(pl_module, SparseGradModule)
        self.statistics.append(pl_module.gradient_engine.statistics)
        self._keep_weights(pl_module)

    def _keep_weights(self, module: LightningModule) -> None:
        self.weights.append({name: parameter.detach().clone() for name, parameter in module.named_parameters()})

    def trained(self, step: int) -> set[str]:
        """The parameters with a gradient at a step; all others have to be bit-equal before and after it."""
        gradients, before, after = self.gradients[step], self.weights[step], self.weights[step + 1]
        held = {name for name, gradient in gradients.items() if gradient is None}
        assert all(torch.equal(before[name], after[name]) for name in held)
        return set(gradients) - held


def identity(run: Recorder) -> None:
    assert all(not statistics for statistics in run.statistics)
    assert run.trained(0) == set(run.weights[0])


def keeps_80_percent(run: Recorder) -> None:
    assert all(abs(float(statistics["kept"]) - 0.8) < 0.001 for statistics in run.statistics)
    weight = "model.bert.encoder.layer.3.attention.self.query.weight"
    zeros = [float((gradients[weight] == 0).float().mean()) for gradients in run.gradients]  # type: ignore[union-attr]
    assert all(abs(share - 0.2) < 0.01 for share in zeros)


def grad_drop(run: Recorder) -> None:
    keeps_80_percent(run)
    assert not _same_mask(run, 0, 1)


def graddrop_epoch(run: Recorder) -> None:
    keeps_80_percent(run)
    assert _same_mask(run, 0, 1)
    assert not _same_mask(run, 2, 3)  # three steps to an epoch


def _same_mask(run: Recorder, first: int, second: int) -> bool:
    weight = "model.bert.encoder.layer.3.attention.self.query.weight"
    masks = [run.gradients[step][weight] == 0 for step in (first, second)]
    return torch.equal(*masks)  # type: ignore[arg-type]


def layer_grad_drop(run: Recorder) -> None:
    trained = [run.trained(step) for step in range(STEPS)]
    assert len(set(map(frozenset, trained))) > 1
    assert all("model.classifier.weight" in names for names in trained)
    for layer in range(6):
        inside = {name for name in run.weights[0] if f"encoder.layer.{layer}." in name}
        assert all(inside <= names or not inside & names for names in trained)


def gradual_unfreezing(run: Recorder) -> None:
    trained = [run.trained(step) for step in range(STEPS)]
    assert all("model.classifier.weight" in names for names in trained)
    assert not any("encoder" in name for name in trained[0])
    assert all(before <= after for before, after in pairwise(trained))
    assert trained[-1] == set(run.weights[0])


def sparse_unfreezing(run: Recorder) -> None:
    kept = [float(statistics["kept"]) for statistics in run.statistics]
    assert kept == sorted(kept)
    assert kept[0] < 0.5
    assert kept[-1] == 1
    assert "model.bert.embeddings.word_embeddings.weight" not in run.trained(0)
    assert "model.classifier.weight" in run.trained(0)


def head_only(run: Recorder) -> None:
    for name, weight in run.weights[-1].items():
        moved = not torch.equal(weight, run.weights[0][name])
        assert moved == ("classifier" in name or "pooler" in name)


def clips_each_tensor(run: Recorder, max_norm: float = 0.01) -> None:
    for gradients in run.gradients:
        norms = [float(gradient.norm()) for gradient in gradients.values() if gradient is not None]
        assert max(norms) <= max_norm * (1 + 1e-5)
    assert any(float(statistics["clipped"]) > 0 for statistics in run.statistics)


def clips_all_together(run: Recorder) -> None:
    for gradients in run.gradients:
        present = [gradient.norm() for gradient in gradients.values() if gradient is not None]
        assert float(torch.stack(present).norm()) <= 1.0 + 1e-5
    assert any(float(statistics["clipped"]) > 0 for statistics in run.statistics)


def value_clip(run: Recorder) -> None:
    for gradients in run.gradients:
        largest = [float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None]
        assert max(largest) <= 0.001 + 1e-9
    assert all(0 < float(statistics["clipped"]) < 1 for statistics in run.statistics)


def chain(run: Recorder) -> None:
    assert any(len(run.trained(step)) < len(run.weights[0]) for step in range(STEPS))
    clips_all_together(run)


def graddrop_cgnc(run: Recorder) -> None:
    keeps_80_percent(run)
    clips_each_tensor(run, max_norm=0.05)


EFFECTS: dict[str, Callable[[Recorder], None]] = {
    "identity": identity,
    "grad_drop": grad_drop,
    "graddrop_epoch": graddrop_epoch,
    "layer_grad_drop": layer_grad_drop,
    "gradual_unfreezing": gradual_unfreezing,
    "sparse_unfreezing": sparse_unfreezing,
    "head_only": head_only,
    "component_norm_clip": clips_each_tensor,
    "cgnc": clips_each_tensor,
    "global_norm_clip": clips_all_together,
    "value_clip": value_clip,
    "chain": chain,
    "graddrop_cgnc": graddrop_cgnc,
}


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Free the gigabyte that a run leaves: a Trainer is a cycle."""
    yield
    gc.collect()


def test_every_overlay_has_an_effect_to_show() -> None:
    assert set(EFFECTS) == set(OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_fits_the_quickstart_and_shows_its_effect(overlay: str, tmp_path: Path) -> None:
    recorder = Recorder()
    settings = {
        "trainer.max_steps": STEPS,
        "trainer.max_epochs": 2,
        "trainer.limit_val_batches": 1,
        "trainer.accelerator": "cpu",
        "trainer.logger": "false",
        "trainer.enable_checkpointing": "false",
        "trainer.default_root_dir": tmp_path,
        "data.max_samples": 24,
        "data.batch_size": 8,
    }
    SparseGradCLI(
        args=["fit", "--config", QUICKSTART, "--config", OVERLAYS[overlay]]
        + [f"--{name}={value}" for name, value in settings.items()],
        trainer_defaults={"callbacks": [recorder]},
    )
    assert len(recorder.gradients) == STEPS
    EFFECTS[overlay](recorder)


class ParsedOnly(SparseGradCLI):
    """Stops after parsing, and keeps the parser for more."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def strategy(self, *files: str) -> dict[str, Any]:
        arguments = [argument for file in files for argument in ("--config", file)]
        config = self.parser.parse_args(["fit", *arguments]).as_dict()["fit"]
        found: dict[str, Any] = config["model"]["init_args"].pop("gradient_transform")
        config.pop("config")
        return {"strategy": found, "rest": config}


@pytest.fixture(scope="module")
def parsed() -> ParsedOnly:
    return ParsedOnly(args=["fit", "--config", QUICKSTART])


@pytest.mark.parametrize("second", OVERLAYS)
def test_an_overlay_over_any_other_is_the_overlay_alone(second: str, parsed: ParsedOnly) -> None:
    alone = parsed.strategy(QUICKSTART, OVERLAYS[second])
    for first in OVERLAYS.values():
        assert parsed.strategy(QUICKSTART, first, OVERLAYS[second]) == alone
