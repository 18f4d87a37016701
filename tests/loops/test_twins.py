"""`pytorch_lightning` beside `lightning.pytorch`: what works, and what is refused in a line that names both."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    ExactResume,
    GradDrop,
    GradientMonitor,
    GradientTransformCallback,
    Linear,
    PredictionWriter,
    SparseGradModule,
    TextDataModule,
)
from lightning_sparsegrad.main import main
from tests import hub
from tests.command_line import PLAIN, QUICK, UNLABELLED
from tests.data.helpers import write
from tests.lightning.conftest import run_of_its_own  # noqa: F401
from tests.lightning.tasks import Network, Regression, assert_same_weights, fit, loader, trainer, weights

other = pytest.importorskip("pytorch_lightning")
callbacks = other.callbacks

STRATEGY = Chain({"mask": GradDrop(Linear(0.1, 0.9)), "clip": ComponentNormClip(0.02)})  # of which step is which
OURS_ALONE = (
    r"`{}` should be used with a Trainer of `lightning\.pytorch`\. Found one of `pytorch_lightning`: use "
    r"`import lightning\.pytorch as pl` in place of `import pytorch_lightning as pl`\."
)


class Theirs(other.LightningModule):  # type: ignore[misc, name-defined]
    """`Regression`, of the other package."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    loss = Regression.loss
    configure_optimizers = Regression.configure_optimizers

    def forward(self, batch: Any) -> Any:
        return self.loss(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))


def their_trainer(**arguments: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return other.Trainer(**{"accelerator": "cpu", "max_epochs": 3, "num_sanity_val_steps": 0, **quiet, **arguments})


def their_fit(*more: Any, path: Any = None, **arguments: Any) -> Any:
    run = their_trainer(callbacks=[GradientTransformCallback(STRATEGY), *more], **arguments)
    run.fit(Theirs(), loader(), loader(2), ckpt_path=path)
    return run


def test_the_callback_gives_the_same_bits_in_either(tmp_path: Path) -> None:
    expected = fit("callback", STRATEGY, max_epochs=3)
    monitor = GradientMonitor(1, path=str(tmp_path / "gradients.csv"))
    actual = their_fit(monitor, callbacks.EarlyStopping("val/loss", patience=9))
    assert actual.global_step == expected.global_step > 0
    assert_same_weights(weights(actual.lightning_module), weights(expected))


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_schedule_knows_how_many_steps_there_are_where_accumulation_changes() -> None:
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    change = {0: 1, 1: 3}
    expected = fit("callback", STRATEGY, max_epochs=3, callbacks=[GradientAccumulationScheduler(change)])
    actual = their_fit(callbacks.GradientAccumulationScheduler(change))
    assert actual.global_step == expected.global_step
    assert_same_weights(weights(actual.lightning_module), weights(expected))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_fit_is_resumed_with_the_state_of_the_strategy(tmp_path: Path) -> None:
    keep = callbacks.ModelCheckpoint(dirpath=tmp_path, save_top_k=-1)
    whole = their_fit(keep, enable_checkpointing=True)
    first = min(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    resumed = their_fit(path=first)
    assert_same_weights(weights(resumed.lightning_module), weights(whole.lightning_module))


def test_what_monitors_is_checked_in_either() -> None:
    missing = pytest.raises(RuntimeError, match="conditioned on metric `val_loss`")
    with pytest.warns(UserWarning, match=r"`monitor` of `EarlyStopping` .* Near matches: `val/loss`"), missing:
        their_fit(callbacks.EarlyStopping("val_loss"), num_sanity_val_steps=1)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: callbacks.GradientAccumulationScheduler({0: 2}), "GradientAccumulationScheduler"),
        (lambda: callbacks.ModelCheckpoint(), "ModelCheckpoint"),
    ],
)
@pytest.mark.parametrize("door", ["module", "callback"])
def test_a_callback_that_the_trainer_does_not_know_is_refused(make: Any, name: str, door: str) -> None:
    message = (
        rf"Callbacks should be of `lightning\.pytorch`, as the Trainer is\. Found `{name}` of `pytorch_lightning`, "
        rf"which the Trainer does not know\."
    )
    with pytest.raises(ConfigurationError, match=message):
        fit(door, GradDrop(0.5), callbacks=[make()])


def test_other_callbacks_of_the_other_package_work() -> None:
    assert fit("module", GradDrop(0.5), callbacks=[callbacks.EarlyStopping("val/loss")]).global_step > 0
    assert their_fit(EarlyStopping("val/loss"), max_epochs=1).global_step > 0


def test_what_works_in_ours_alone_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=OURS_ALONE.format("ExactResume")):
        their_fit(ExactResume())
    with pytest.raises(ConfigurationError, match=OURS_ALONE.format("PredictionWriter")):
        their_trainer(callbacks=[PredictionWriter()]).predict(Theirs(), loader())
    files = {"train": write(tmp_path / "train.csv", text=["a", "b"], label=[0, 1])}
    data = TextDataModule(data_files=files, tokenizer=hub.tiny_encoder(tmp_path, layers=1))
    with pytest.raises(ConfigurationError, match=OURS_ALONE.format("TextDataModule")):
        their_trainer().fit(Theirs(), datamodule=data)


def test_a_module_is_refused_by_the_trainer_of_the_other_package() -> None:
    """Before any hook of ours runs; a Trainer of either package reports it in one line."""
    message = "`model` must be a `LightningModule` or `torch._dynamo.OptimizedModule`, got `{}`"
    with pytest.raises(TypeError, match=message.format("Sparse")):
        their_trainer().fit(type("Sparse", (SparseGradModule,), {})(gradient_transform=GradDrop(0.5)), loader())
    with pytest.raises(TypeError, match=message.format("Theirs")):
        trainer(callbacks=[GradientTransformCallback(GradDrop(0.5))]).fit(Theirs(), loader())


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            [PLAIN, "--trainer.callbacks+=pytorch_lightning.callbacks.EarlyStopping"],
            "`pytorch_lightning.callbacks.EarlyStopping` is not a subclass of `Callback` at `trainer.callbacks`, in "
            "`--trainer.callbacks+=pytorch_lightning.callbacks.EarlyStopping`. It is of `pytorch_lightning`, whose "
            "classes `lightning.pytorch` does not know: use `EarlyStopping` of `lightning.pytorch`.",
        ),
        (
            [f"--model={__name__}.Theirs"],
            f"`{__name__}.Theirs` is not a subclass of `LightningModule` at `model`, in `--model={__name__}.Theirs`. "
            f"It is of `pytorch_lightning`, whose classes `lightning.pytorch` does not know: use `import "
            f"lightning.pytorch as pl` where it is defined.",
        ),
        (
            [f"--model={__name__}.Network"],
            f"`{__name__}.Network` is not a subclass of `LightningModule` at `model`, in ",
        ),
    ],
)
def test_the_command_line_says_what_to_import(
    arguments: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, UNLABELLED, *QUICK])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {answer}")
