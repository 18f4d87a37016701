"""Every overlay of `configs/gradient` trains, shows the effect its golden row states, and replaces any other."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sparsegrad import SparseGradCLI, SparseGradModule
from tests.strategies import OVERLAYS, ROOT, spec_in
from tests.transforms.golden import GOLDEN
from tests.transforms.golden._row import Fit
from tests.transforms.small import snapshot

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SHOWN = {row.overlay: row for row in GOLDEN if row.overlay is not None}
STEPS = 6


class Recorder(Callback):
    """Records what every optimizer step leaves behind."""

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
    """Free the gigabyte that a run leaves: a Trainer is a cycle."""
    yield
    gc.collect()


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS, *SHOWN}))
def test_an_overlay_has_a_golden_row_that_says_what_it_shows(overlay: str) -> None:
    strategy = spec_in(overlay)["class_path"]
    row = SHOWN.get(overlay)
    assert row is not None, (
        f"configs/gradient/{overlay}.yaml needs its effect: a row of `{strategy}` in tests/transforms/golden with "
        f'`overlay="{overlay}", effect=...`'
    )
    assert strategy == type(row.transform).__name__, f"the effect of {overlay} is that of another strategy"


def test_an_overlay_is_shown_once() -> None:
    assert len(SHOWN) == sum(row.overlay is not None for row in GOLDEN)


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} & {*SHOWN}))
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
    alone = parsed.strategy(QUICKSTART, str(OVERLAYS[second]))
    for first in OVERLAYS.values():
        assert parsed.strategy(QUICKSTART, str(first), str(OVERLAYS[second])) == alone
