"""The metrics that callbacks and schedulers monitor are checked before the first step."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_sparsegrad import (
    ConfigurationError,
    GradDrop,
    GradientMonitor,
    GradientTransformCallback,
    Identity,
    SequenceClassification,
)
from lightning_sparsegrad.main import main
from tests import hub
from tests.data.helpers import write
from tests.lightning.conftest import run_of_its_own  # noqa: F401
from tests.lightning.tasks import Regression, loader, trainer
from tests.lightning.test_evaluation import CLASSES, Languages

from ..tiny import tiny_bert


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_bert(num_labels=CLASSES, num_hidden_layers=1).save_pretrained(folder)  # type: ignore[operator]
    return str(folder)


class Best(Callback):
    """A user's callback, which reads a metric."""

    def __init__(self, monitor: str, mode: str = "min") -> None:
        self.monitor, self.mode = monitor, mode

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            assert trainer.callback_metrics[self.monitor] is not None


class Heat(Callback):
    """Monitors something else by that name."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor


class Begun(Callback):
    """Keeps the batches that were begun."""

    def __init__(self, begun: list[int]) -> None:
        self.begun = begun

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begun.append(batch_idx)


class Extra(Callback):
    """Logs a name of its own."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("extra", 1.0)


class Subclass(SequenceClassification):
    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/margin", 1.0)


class Single(Languages):
    def val_dataloader(self) -> Any:
        return super().val_dataloader()["de"]


class Blind(Languages):
    val_dataloader = LightningModule.val_dataloader


Make = Callable[[], Callback]
early, best = partial(EarlyStopping, "val_loss"), partial(ModelCheckpoint, monitor="val_loss")


def fit(model: str, *callbacks: Any, data: Any = None, kind: Any = SequenceClassification, **arguments: Any) -> Trainer:
    scheduler = arguments.pop("lr_scheduler", None)
    steps = {"limit_train_batches": 1, "num_sanity_val_steps": 1, "limit_val_batches": 1}
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    run = trainer(callbacks=list(callbacks), enable_checkpointing=checkpoints, **{**steps, **arguments})
    task = kind(model, CLASSES, GradDrop(0.5), metrics=["accuracy"], lr_scheduler=scheduler)
    run.fit(task, data or Single())
    return run


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize(
    ("owner", "make"),
    [
        ("EarlyStopping", early),
        ("ModelCheckpoint", best),
        ("Best", partial(Best, "val_loss")),
        ("EarlyStopping", lambda: (EarlyStopping("val/loss"), early())),
        ("ModelCheckpoint", lambda: (ModelCheckpoint(), ModelCheckpoint(monitor="val/loss"), best())),
    ],
)
def test_a_name_that_a_task_does_not_log_is_refused_before_the_first_step(
    model: str, owner: str, make: Any, sanity: int, tmp_path: Path
) -> None:
    made = make() if isinstance(make(), tuple) else (make(),)
    first_steps: list[int] = []
    started = Begun(first_steps)
    with pytest.raises(ConfigurationError) as refused:
        fit(model, *made, started, default_root_dir=tmp_path, num_sanity_val_steps=sanity)
    assert str(refused.value) == (
        f"Parameter `monitor` of `{owner}` should be a name that this fit logs. Found `monitor = 'val_loss'`. "
        f"Near matches: `val/loss`, `train/loss`."
    )
    assert first_steps == []


def ours(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    return [
        message for each in caught if "takes the worst" in (message := str(each.message)) or "`monitor` of" in message
    ]


def test_a_name_of_one_part_is_refused_where_there_are_several(model: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Found `monitor = 'val/loss'`\. Near matches: `val/loss/"):
        fit(model, EarlyStopping("val/loss"), data=Languages())


class Plateau(SequenceClassification):
    monitored = "val_loss"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": ReduceLROnPlateau(optimizer), "monitor": self.monitored},
        }


def test_a_scheduler_is_asked_too(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"of `ReduceLROnPlateau` should be .* Near matches: `val/loss`"):
        fit(model, kind=Plateau)
    monkeypatch.setattr(Plateau, "monitored", "val/loss")
    fit(model, kind=Plateau)
    monkeypatch.setattr(Plateau, "monitored", "val/accuracy")
    with pytest.warns(UserWarning, match=r"`ReduceLROnPlateau\(monitor='val/accuracy', mode='min'\)` takes the worst"):
        fit(model, kind=Plateau)


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [EarlyStopping("val/loss"), EarlyStopping("train/loss"), EarlyStopping("val/accuracy", mode="max")],
        lambda: [Best("val/loss"), Heat("gpu")],
        lambda: [EarlyStopping("gradient/kept")],
        lambda: [GradientMonitor(1, path="gradients.csv"), EarlyStopping("monitor/kept")],
        lambda: [ModelCheckpoint(monitor="step", mode="max"), ModelCheckpoint(monitor="epoch")],
        lambda: [ModelCheckpoint(monitor="nothing", save_top_k=0)],
        lambda: [EarlyStopping("extra"), Extra()],
        lambda: [EarlyStopping("lr-AdamW/pg1"), LearningRateMonitor()],
    ],
)
def test_what_works_is_let_through(model: str, callbacks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fit(model, *callbacks(), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert run.global_step == 1


def test_a_task_that_logs_more_may_be_monitored_by_it(model: str) -> None:
    fit(model, EarlyStopping("val/margin"), EarlyStopping("val/loss"), kind=Subclass)


def test_validation_that_comes_later_is_waited_for(model: str) -> None:
    trainer = fit(model, EarlyStopping("val/loss"), num_sanity_val_steps=0, check_val_every_n_epoch=2, max_epochs=2)
    assert trainer.global_step == 2


NO_VALIDATION = r"Found `monitor = 'val/loss'`, and no validation\. Near matches: `train/loss`"


@pytest.mark.parametrize("make", [partial(EarlyStopping, "val/loss"), partial(ModelCheckpoint, monitor="val/loss")])
def test_a_fit_without_validation_has_no_name_of_it(model: str, make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of a `validation_step` without data
        with pytest.raises(ConfigurationError, match=NO_VALIDATION):
            fit(model, make(), data=Blind())


@pytest.mark.parametrize(
    ("make", "switch"),
    [
        (best, {"limit_val_batches": 0}),
        (best, {"fast_dev_run": True}),
        (early, {"fast_dev_run": True}),
        (partial(early, strict=False), {}),
    ],
)
def test_what_does_not_stop_a_fit_is_said(model: str, make: Make, switch: dict[str, Any], tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fit(model, make(), default_root_dir=tmp_path, **switch).global_step == 1
    (message,) = ours(caught)
    assert "should be a name that this fit logs. Found `monitor = 'val_loss'" in message


@pytest.mark.parametrize("make", [partial(EarlyStopping), partial(ModelCheckpoint), Best])
def test_a_mode_that_keeps_the_worst_is_said(model: str, make: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="takes the worst") as caught:
        fit(model, make(monitor="val/accuracy"), default_root_dir=tmp_path)
    name = make.func.__name__ if isinstance(make, partial) else "Best"
    assert ours(caught) == [
        f"`{name}(monitor='val/accuracy', mode='min')` takes the worst value for the best: of `val/accuracy`, higher "
        f"is better, `mode='max'`."
    ]


# ------------------------------------------------------------ modules of somebody else
class Own(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_epoch=True)
        return loss


def own(*callbacks: Any, **arguments: Any) -> Trainer:
    run = trainer(callbacks=[GradientTransformCallback(Identity()), *callbacks], num_sanity_val_steps=1, **arguments)
    run.fit(Own(), loader(1), loader(1))
    return run


def test_of_another_module_a_name_that_the_sanity_check_does_not_log_is_doubtful() -> None:
    missing = pytest.raises(RuntimeError, match="conditioned on metric `val_loss` which is not available")
    with pytest.warns(UserWarning, match="unless something else logs it") as caught, missing:
        own(early())
    assert ours(caught) == [
        "Parameter `monitor` of `EarlyStopping` should be a name that is logged: unless something else logs it, it "
        "will be missing. Found `monitor = 'val_loss'`; the sanity check logged `val/loss`. Near matches: "
        "`val/loss`."
    ]


def test_of_another_module_what_it_may_log_is_let_through() -> None:
    assert own(EarlyStopping("train_loss"), EarlyStopping("val/loss"), Best("train_loss_step")).global_step == 1


# ------------------------------------------------------------ the command line
@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = write(tmp_path / "rows.csv", text=list(hub.KEYS[:4]), label=["no", "yes"] * 2)
    return [
        *("fit", "--model=SequenceClassification", "--model.gradient_transform=Identity"),
        f"--model.model_name_or_path={hub.tiny_encoder(tmp_path / 'encoder', layers=1)}",
        *("--data=TextDataModule", f"--data.data_files={{train: {rows}, validation: {rows}}}"),
        *("--seed_everything=0", "--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    ]


def line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (message,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback")))
    return message


def test_the_command_line_answers_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    monitor = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    assert line([*arguments, *monitor], capsys).startswith(
        "error: Parameter `monitor` of `EarlyStopping` should be a name that this fit logs. "
        "Found `monitor = 'val_loss'`. Near matches: `val/loss`"
    )


@pytest.mark.filterwarnings("ignore:Parameter `monitor` of `EarlyStopping`")
def test_what_only_an_epoch_shows_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--seed_everything=0"]
    own = [
        "--model=tests.command_line.Plain",
        "--data=tests.command_line.Unlabelled",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    monitor = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    assert "conditioned on metric `val_loss`" in line(["fit", *own, *quiet, *monitor], capsys)
