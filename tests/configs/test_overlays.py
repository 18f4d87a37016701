"""Every overlay of `configs/gradient` trains, shows the effect its golden row states, and replaces any other."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sparsegrad import GradientEngine, GradientTransform, SparseGradCLI, SparseGradModule
from tests.strategies import OVERLAYS, ROOT, spec_in
from tests.tiny import tiny_bert
from tests.transforms.golden import GOLDEN
from tests.transforms.golden._row import Fit
from tests.transforms.small import snapshot

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SHOWN = {row.overlay: row for row in GOLDEN if row.overlay is not None}
STEPS = 6
SIZES = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 9000}  # enough for shares of entries
FITTED = "chain"  # by default; all are shown on a tiny model


class Recorder(Callback):
    """A callback that records the weights after every optimizer step."""

    def __init__(self) -> None:
        self.fit = Fit()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._record_weights(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.fit.gradients.append(snapshot(pl_module))
        assert isinstance(pl_module, SparseGradModule)
        self.fit.statistics.append(pl_module.gradient_engine.statistics)
        self._record_weights(pl_module)

    def _record_weights(self, module: LightningModule) -> None:
        weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        self.fit.weights.append(weights)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Free the gigabyte that a run leaves, since a Trainer is a reference cycle."""
    yield
    gc.collect()


def test_an_overlay_has_a_golden_row_that_says_what_it_shows(subtests: pytest.Subtests) -> None:
    for overlay in sorted({*OVERLAYS, *SHOWN}):
        with subtests.test(overlay):
            strategy = spec_in(overlay)["class_path"]
            row = SHOWN.get(overlay)
            assert row is not None, (
                f"configs/gradient/{overlay}.yaml needs its effect: a row of `{strategy}` in tests/transforms/golden "
                f'with `overlay="{overlay}", effect=...`'
            )
            assert strategy == type(row.transform).__name__, f"the effect of {overlay} is that of another strategy"
    assert len(SHOWN) == sum(row.overlay is not None for row in GOLDEN), "an overlay is shown once"


@pytest.mark.parametrize(
    "overlay",
    [pytest.param(each, marks=() if each == FITTED else pytest.mark.long) for each in sorted({*OVERLAYS} & {*SHOWN})],
)
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
        args=["fit", "--config", QUICKSTART, "--config", str(OVERLAYS[overlay])]
        + [f"--{name}={value}" for name, value in settings.items()],
        trainer_defaults={"callbacks": [recorder]},
    )
    assert len(recorder.fit.gradients) == STEPS
    effect = SHOWN[overlay].effect
    assert effect is not None
    effect(recorder.fit)


class ParsedOnly(SparseGradCLI):
    """A command line that stops after parsing, and keeps the parser for further use."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def strategy(self, *files: str) -> dict[str, Any]:
        arguments = [argument for file in files for argument in ("--config", file)]
        config = self.parser.parse_args(["fit", *arguments]).as_dict()["fit"]
        strategy_read: dict[str, Any] = config["model"]["init_args"].pop("gradient_transform")
        config.pop("config")
        return {"strategy": strategy_read, "rest": config}


@pytest.fixture(scope="module")
def parsed() -> ParsedOnly:
    return ParsedOnly(args=["fit", "--config", QUICKSTART])


class Task(torch.nn.Module):
    """A model with the weight names of tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = tiny_bert(num_labels=2, num_hidden_layers=6, **SIZES)


def fitted(transform: GradientTransform) -> Fit:
    """Train a tiny model with a plain loop."""
    torch.manual_seed(0)
    task, fit = Task().train(), Fit()
    engine = GradientEngine(task, transform, total_steps=STEPS, seed=0)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    engine.attach(optimizer)
    fit.weights.append({name: weight.detach().clone() for name, weight in task.named_parameters()})
    for step in range(STEPS):
        optimizer.zero_grad()
        with engine.window(step, epoch=step // 3):
            batch = torch.randint(5, 50, (8, 6))
            (20 * task.model(batch, labels=torch.randint(2, (8,))).loss).backward()  # enough to be clipped
            engine.apply_()
        fit.gradients.append(snapshot(task))
        fit.statistics.append(engine.statistics)
        optimizer.step()
        fit.weights.append({name: weight.detach().clone() for name, weight in task.named_parameters()})
    return fit


def test_an_overlay_shows_its_effect(subtests: pytest.Subtests) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(GradientTransform, "transform")
    for name in OVERLAYS:
        with subtests.test(name):
            made = parser.instantiate_classes(parser.parse_object({"transform": spec_in(name)}))
            effect = SHOWN[name].effect
            assert effect is not None
            effect(fitted(made.transform))


@pytest.mark.long
@pytest.mark.parametrize("second", OVERLAYS)
def test_an_overlay_over_others_is_the_overlay_alone(second: str, parsed: ParsedOnly) -> None:
    """Over a chain, and over two overlays in turn: `tests/cli/test_replacing.py` has every pair of kinds."""
    names = sorted(OVERLAYS)
    index = names.index(second)
    alone = parsed.strategy(QUICKSTART, str(OVERLAYS[second]))
    for first in ("chain", names[index - 1], names[index - 3]):
        assert parsed.strategy(QUICKSTART, str(OVERLAYS[first]), str(OVERLAYS[second])) == alone
