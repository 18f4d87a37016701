"""A fit whose final weights or validation loss are not finite is reported, and its files are kept."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.amp import GradScaler

from lightning_sparsegrad import Identity, SparseGradModule
from lightning_sparsegrad.loops._divergence import DivergenceWarning, divergence_of, is_validation_loss
from lightning_sparsegrad.main import main
from tests.cases import cases
from tests.command_line import QUICK, SAVE, UNLABELLED, Plain
from tests.lightning.conftest import run_of_its_own  # noqa: F401
from tests.lightning.tasks import BATCHES, DOORS, Batch, Regression, loader, through, trainer, weights
from tests.lightning.test_precision import half

LAST = BATCHES - 1
ENDS = r"^The fit ended with weights that are not finite: `network\.blocks\.0\.0\.weight` and 13 more\. "


class Poisoned(Regression):
    """The loss of one batch is not finite, in training or in validation."""

    bad_step: int | None = None
    bad_validation: int | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = self.loss(batch) * (torch.nan if batch_idx == self.bad_step else 1)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.loss(batch) * (torch.inf if batch_idx == self.bad_validation else 1)
        self.log_dict({"val/loss": loss, "val/correlation": torch.tensor(torch.nan)})


def fit(door: str = "module", *, policy: Any = "propagate", validated: bool = True, **arguments: Any) -> Trainer:
    marks: dict[str, Any] = {name: arguments.pop(name) for name in ("bad_step", "bad_validation") if name in arguments}
    kind = type("Task", (Poisoned,), marks)
    task, callbacks = through(door, Identity(), kind, nonfinite=policy)
    run = trainer(**{**arguments, "callbacks": [*callbacks, *arguments.get("callbacks", [])]})
    run.fit(task, loader(), loader(2) if validated else None)
    return run


# ---------------------------------------------------------------- what counts
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("step", [0, LAST])
def test_weights_that_are_not_finite_are_told_of(door: str, step: int) -> None:
    with pytest.warns(DivergenceWarning, match=ENDS):
        fit(door, bad_step=step, validated=False)


def test_infinite_weights_are_not_finite() -> None:
    run = fit()
    assert divergence_of(run) is None
    torch.nn.init.constant_(run.lightning_module.get_parameter("network.head.bias"), -torch.inf)
    assert divergence_of(run).startswith("The fit ended with weights that are not finite: `network.head.bias`. ")  # type: ignore[union-attr]


@pytest.mark.parametrize("door", DOORS)
def test_a_validation_loss_that_is_not_finite_is_told_of(door: str) -> None:
    with pytest.warns(
        DivergenceWarning, match=r"^The fit ended with a validation loss that is not finite: `val/loss` = inf"
    ):
        fit(door, bad_validation=1)


def test_a_loss_that_is_monitored_counts_whatever_its_name() -> None:
    class Named(Poisoned):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            self.log("loss", self.loss(batch) * torch.nan)

    run = trainer(callbacks=[EarlyStopping("loss", check_finite=False)])
    run.fit(Named(), loader(), loader(2))
    assert "`loss` = nan" in str(divergence_of(run))


# ---------------------------------------------------------------- what does not
def test_a_finite_end_is_no_matter() -> None:
    assert divergence_of(fit()) is None  # with a correlation that is undefined


@pytest.mark.parametrize("step", [0, LAST])
def test_a_window_that_was_skipped_is_no_matter(step: int) -> None:
    run = fit(policy="skip", bad_step=step)
    assert run.callback_metrics["train/loss"].isnan() == (step == LAST)
    assert divergence_of(run) is None


@pytest.mark.parametrize("step", [0, LAST])
def test_a_step_that_a_gradient_scaler_left_out_is_no_matter(step: int) -> None:
    run = fit(bad_step=step, **half(GradScaler("cpu", init_scale=256.0)))
    assert all(weight.isfinite().all() for weight in weights(run).values())
    assert divergence_of(run) is None


def test_frozen_weights_are_no_matter() -> None:
    run = fit(validated=False)
    bias = run.lightning_module.get_parameter("network.head.bias")
    bias.requires_grad = False
    bias.fill_(-torch.inf)
    assert divergence_of(run) is None


def test_a_validation_that_was_not_finite_and_is_again_is_no_matter() -> None:
    class Once(Poisoned):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            self.log("val/loss", self.loss(batch) * (torch.nan if self.current_epoch == 0 else 1))

    run = trainer(max_epochs=2)
    run.fit(Once(), loader(), loader(2))
    assert divergence_of(run) is None


@cases(
    ("name", "expected"),
    [
        ("val/loss", True),
        ("val/loss/de", True),
        ("val_loss", True),
        ("valid-loss_epoch", True),
        ("Loss/Validation", True),
        ("eval.nll_loss", True),
        ("train/loss", False),
        ("loss", False),
        ("train_val/loss", False),
        ("val/accuracy", False),
        ("interval_loss", False),
    ],
)
def test_what_is_called_a_validation_loss(name: str, expected: bool) -> None:
    assert is_validation_loss(name) is expected


def test_the_warning_can_be_made_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DivergenceWarning)
        with pytest.raises(DivergenceWarning, match=ENDS):
            fit(bad_step=0, validated=False)


def test_a_trainer_that_fits_twice_tells_once_each() -> None:
    task, _ = through("module", Identity(), type("Task", (Poisoned,), {"bad_step": 0}))
    run = trainer()
    for epochs in (1, 2):
        run.fit_loop.max_epochs = epochs
        with pytest.warns(DivergenceWarning) as caught:
            run.fit(task, loader())
        assert len([warning for warning in caught if warning.category is DivergenceWarning]) == 1


# ---------------------------------------------------------------- the command line
class Diverging(Plain):
    """A user's module that does not use the library; its weights are undefined from a step on."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start

    def training_step(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        return loss * (torch.nan if self.global_step >= self.start else 1)

    def validation_step(self, batch: Tensor) -> None:
        self.log("val/loss", self.layer(batch).square().mean())
        self.log("val/accuracy", torch.tensor(0.5))


class SparseDiverging(Diverging, SparseGradModule):
    """The same with the base class of this library, which warns in every Trainer."""

    def __init__(self) -> None:
        SparseGradModule.__init__(self, gradient_transform=Identity())
        self.layer, self.start = torch.nn.Linear(2, 1), 0


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        main(["fit", f"--model={__name__}.Diverging", UNLABELLED, *QUICK, SAVE, *arguments])

    return run


def checkpoint_of(monitor: str) -> str:
    settings = f"{{dirpath: checkpoints, monitor: {monitor}, mode: {'min' if 'loss' in monitor else 'max'}}}"
    return f"--trainer.callbacks=[{{class_path: ModelCheckpoint, init_args: {settings}}}]"


@pytest.mark.parametrize("unvalidated", [[], ["--trainer.limit_val_batches=0"]], ids=["validated", "not"])
def test_a_fit_that_diverged_ends_with_one_line_and_keeps_its_checkpoint(
    command: Callable[..., None], unvalidated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(*unvalidated)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    (line,) = (line for line in err.splitlines() if "finite" in line)
    assert line.startswith("error: The fit ended with weights that are not finite: `layer.weight` and 1 more. ")
    assert "best checkpoint" not in out
    assert "checkpoint, diverged" in out
    assert len(list(Path("checkpoints").iterdir())) == 1


def test_what_the_error_says_is_no_warning_as_well(
    command: Callable[..., None], recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(f"--model={__name__}.SparseDiverging")
    assert ended.value.code == 2
    assert isinstance(ended.value.__cause__, FloatingPointError)
    assert not [warning for warning in recwarn if warning.category is DivergenceWarning]


def test_a_best_checkpoint_from_before_is_named(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("--model.start=4", "--trainer.max_epochs=2", checkpoint_of("val/loss"))
    out = capsys.readouterr().out
    assert "best checkpoint, before it diverged" in out
    (path,) = Path("checkpoints").iterdir()
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(weight.isfinite().all() for weight in state.values())


@pytest.mark.parametrize(
    ("monitor", "row"), [("val/loss", "checkpoint, val/loss not finite"), ("val/accuracy", "checkpoint, diverged")]
)
def test_no_checkpoint_is_the_best_whose_weights_are_not_finite(
    command: Callable[..., None], monitor: str, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(checkpoint_of(monitor))
    out = capsys.readouterr().out
    assert row in out
    assert "best checkpoint" not in out


def test_a_fit_that_did_not_diverge_has_a_best_checkpoint(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command("--model.start=1000")
    assert "│ best checkpoint" in capsys.readouterr().out
