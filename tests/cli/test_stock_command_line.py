"""LightningCLI with its own parser, for which our callback and strategies are ordinary classes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientTransformCallback, Linear
from tests.command_line import QUICK, SAVE, Plain, Unlabelled
from tests.lightning.tasks import assert_same_weights, weights

Names = dict[str, str]

FULL = {
    name: f"lightning_sparsegrad.{name}"
    for name in ("GradientTransformCallback", "Chain", "GradDrop", "Linear", "ComponentNormClip")
}
SHORT = {name: name for name in FULL}  # of classes that the program has imported
EXPECTED = Chain({"mask": GradDrop(Linear(0.1, 0.9)), "clip": ComponentNormClip(0.05)})

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:Checkpoint directory")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(names: Names, *, listed: bool) -> str:
    mask = {"class_path": names["GradDrop"], "init_args": {"rate": _linear(names)}}
    clip = {"class_path": names["ComponentNormClip"], "init_args": {"max_norm": 0.05}}
    transforms = [mask, clip] if listed else {"mask": mask, "clip": clip}
    chain = {"class_path": names["Chain"], "init_args": {"transforms": transforms}}
    callback = {"class_path": names["GradientTransformCallback"], "init_args": {"gradient_transform": chain}}
    Path("strategy.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}, sort_keys=False))
    return "--config=strategy.yaml"


def _linear(names: Names) -> dict[str, Any]:
    return {"class_path": names["Linear"], "init_args": {"start": 0.1, "end": 0.9}}


def run(*arguments: str, subclasses: bool = False, **kwargs: Any) -> LightningCLI:
    if not subclasses:
        return LightningCLI(Plain, Unlabelled, args=["fit", *arguments], **kwargs)
    named = [f"--model={Plain.__module__}.Plain", f"--data={Unlabelled.__module__}.Unlabelled"]
    return LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=["fit", *arguments, *named],
    )


def transform(cli: LightningCLI) -> str:
    callbacks: Any = cli.trainer.callbacks  # type: ignore[attr-defined]  # set by its connector
    (door,) = (callback for callback in callbacks if isinstance(callback, GradientTransformCallback))
    assert cli.trainer.state.finished
    assert float(door.gradient_engine.statistics["kept"]) < 1
    return repr(door.gradient_transform)


def test_a_chain_is_named_in_a_file(subtests: pytest.Subtests) -> None:
    for names in (FULL, SHORT):
        for listed in (True, False):
            with subtests.test(names=names, listed=listed):
                expected = EXPECTED if not listed else Chain(list(EXPECTED.transforms.values()))
                cli = run(config(names, listed=listed), *QUICK, save_config_kwargs={"overwrite": True})
                assert transform(cli) == repr(expected)


def test_its_saved_config_makes_the_same_run() -> None:
    first = run(config(FULL, listed=True), *QUICK, subclasses=True)
    saved = Path("config.yaml").rename("saved.yaml")
    again = LightningCLI(args=["fit", f"--config={saved}"])
    assert transform(again) == transform(first)
    assert_same_weights(weights(again.model), weights(first.model))


def test_a_printed_config_makes_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        run(config(FULL, listed=False), *QUICK, "--print_config")
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert transform(run("--config=printed.yaml")) == repr(EXPECTED)


def test_a_fit_is_resumed_from_its_checkpoint() -> None:
    long = [argument.replace("max_epochs=1", "max_epochs=3") for argument in QUICK]
    keep = [SAVE, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-1"]
    whole = run(config(FULL, listed=False), *long, *keep)
    first = min(Path("checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    moved = first.rename("first.ckpt")
    Path("config.yaml").unlink()
    resumed = run(config(FULL, listed=False), *long, f"--ckpt_path={moved}")
    assert resumed.trainer.global_step == whole.trainer.global_step == 3 * 4
    assert_same_weights(weights(resumed.model), weights(whole.model))
