"""Changed hyperparameters of a resumed fit take effect; everything else is restored bit for bit."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparsegrad import ConfigurationError, ExactResume, GradientTransformCallback, Identity, SparseGradModule
from lightning_sparsegrad.modules import LinearDecay
from tests.resume.runs import THOROUGH

LOG = "lightning.pytorch.utilities.rank_zero"
KEY = "lightning_sparsegrad_optimizers"
BATCHES, EPOCHS, STOP = 4, 3, 6
Make = Callable[[Any], Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before", "ignore:.*many workers"),
]


class _Task(LightningModule):
    def __init__(self, make: Make, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.make, self.seen = make, list[dict[str, Any]]()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (group, *_) = self.optimizers().param_groups  # type: ignore[union-attr]
        self.seen.append({name: value for name, value in group.items() if name != "params"})
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss, on_step=True)
        return loss

    def configure_optimizers(self) -> Any:
        return self.make(self)


class Task(_Task, SparseGradModule):
    def __init__(self, make: Make) -> None:
        super().__init__(make, gradient_transform=Identity())


def fit(
    make: Make, folder: Path, *callbacks: Any, path: Path | None = None, door: str = "both", **arguments: Any
) -> Any:
    torch.manual_seed(0)
    doors: dict[str, list[Any]] = {
        "both": [ExactResume()],
        "module": [],
        "callback": [GradientTransformCallback(Identity())],
        "exact": [ExactResume()],
    }
    saving = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        callbacks=[*doors[door], saving, *callbacks],
        **{"max_epochs": EPOCHS, "log_every_n_steps": 1, **quiet, **arguments},
    )
    task = Task(make) if door in {"both", "module"} else _Task(make)
    data = TensorDataset(torch.ones(2 * BATCHES, 4))
    trainer.fit(task, DataLoader(data, batch_size=2), ckpt_path=path)
    return task


def optimizer(kind: Any = AdamW, schedule: Any = None, interval: str = "step", **arguments: Any) -> Make:
    def make(task: LightningModule) -> Any:
        made = kind(task.parameters(), **{"lr": 0.1, **arguments})
        if schedule is None:
            return made
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule(made), "interval": interval}}

    return make


def exponential(gamma: float = 0.9) -> Callable[[Optimizer], Any]:
    return lambda made: ExponentialLR(made, gamma)


def sequential(made: Optimizer) -> Any:
    return SequentialLR(made, [ConstantLR(made, 0.1, total_iters=2), ExponentialLR(made, 0.9)], [2])


def one_cycle(peak: float, steps: int = 20) -> Callable[[Optimizer], Any]:
    return lambda made: OneCycleLR(made, peak, total_steps=steps)


CHANGES: dict[str, tuple[Make, Make, str]] = {
    "nothing": (optimizer(), optimizer(), ""),
    "nothing about a schedule": (optimizer(schedule=sequential), optimizer(schedule=sequential), ""),
    "lr": (optimizer(), optimizer(lr=0.5), "`lr` from 0.1 to 0.5"),
    "weight decay": (optimizer(), optimizer(weight_decay=0.3), "`weight_decay` from 0.01 to 0.3"),
    "betas": (optimizer(), optimizer(betas=(0.8, 0.9)), "`betas` from [0.9, 0.999] to [0.8, 0.9]"),
    "momentum": (optimizer(SGD), optimizer(SGD, momentum=0.9), "`momentum` from 0 to 0.9"),
    "lr under a schedule": (optimizer(schedule=exponential()), optimizer(lr=0.2, schedule=exponential()), "`lr` from"),
    "lr under an epoch's": (
        optimizer(schedule=exponential(), interval="epoch"),
        optimizer(lr=0.2, schedule=exponential(), interval="epoch"),
        "`lr` from 0.1 to 0.2",
    ),
    "lr under several in turn": (optimizer(schedule=sequential), optimizer(lr=0.2, schedule=sequential), "`lr` from"),
    "gamma": (
        optimizer(schedule=exponential()),
        optimizer(schedule=exponential(0.5)),
        "`ExponentialLR.gamma` from 0.9 to",
    ),
    "milestones": (
        optimizer(schedule=lambda made: MultiStepLR(made, [3])),
        optimizer(schedule=lambda made: MultiStepLR(made, [8])),
        "`MultiStepLR.milestones` from {'3': 1} to {'8': 1}",
    ),
    "the length of a cosine": (
        optimizer(schedule=lambda made: CosineAnnealingLR(made, 8)),
        optimizer(schedule=lambda made: CosineAnnealingLR(made, 20)),
        "`CosineAnnealingLR.T_max` from 8 to 20",
    ),
    "a peak, and momenta with it": (
        optimizer(schedule=one_cycle(1.0)),
        optimizer(schedule=one_cycle(2.0)),
        "`max_lr` from",
    ),
    "warm-up": (
        optimizer(schedule=lambda made: LinearDecay(made, total_steps=12)),
        optimizer(schedule=lambda made: LinearDecay(made, total_steps=12, warmup=0.75)),
        "`LinearDecay.warmup` from 0.0 to 0.75",
    ),
    "another scheduler": (
        optimizer(schedule=exponential()),
        optimizer(schedule=lambda made: StepLR(made, 2)),
        "the scheduler from ExponentialLR to StepLR",
    ),
    "a scheduler more": (optimizer(), optimizer(schedule=exponential()), "the scheduler from none to ExponentialLR"),
    "a scheduler less": (optimizer(schedule=exponential()), optimizer(), "the scheduler from ExponentialLR to none"),
}

ALSO_FIRST = ("nothing", "lr under several in turn", "another scheduler")  # from a checkpoint of it, by default


def of_the_first_release(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[KEY]
    torch.save(checkpoint, path)


def settings(seen: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in seen.items() if name not in {"initial_lr", "max_lr", "min_lr"}}


@pytest.mark.resume
def test_the_new_settings_hold_from_the_resumed_step_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, subtests: pytest.Subtests
) -> None:
    caplog.set_level(logging.INFO, LOG)
    for change, (before, now, expected) in CHANGES.items():
        folder = tmp_path / change
        first, whole = fit(before, folder / "first"), fit(now, folder / "whole")
        path = folder / "first" / f"step={STOP}.ckpt"
        for release in ("this", "first") if THOROUGH or change in ALSO_FIRST else ("this",):
            if release == "first":
                of_the_first_release(path)
            caplog.clear()
            with subtests.test(change, release=release):
                resumed = fit(now, folder / f"resumed from {release}", path=path)
                assert [settings(seen) for seen in resumed.seen] == [settings(seen) for seen in whole.seen[STOP:]]
                reported = [message for message in caplog.messages if message.startswith("The resumed fit differs")]
                assert len(reported) == bool(expected)
                if expected and release == "this":
                    assert expected in reported[0]
                if not expected:
                    assert all(
                        torch.equal(*pair) for pair in zip(resumed.parameters(), first.parameters(), strict=True)
                    )


@pytest.mark.parametrize("door", ["module", "callback", "exact"])
def test_through_every_door_and_once_more(door: str, tmp_path: Path) -> None:
    fit(optimizer(schedule=exponential()), tmp_path / "a", door=door)
    again = optimizer(lr=0.2, schedule=exponential())
    second = fit(again, tmp_path / "b", path=tmp_path / "a" / f"step={STOP}.ckpt", door=door)
    third = fit(again, tmp_path / "c", path=tmp_path / "b" / "step=9.ckpt", door=door)
    rates = [0.2 * 0.9**step for step in range(STOP, EPOCHS * BATCHES)]
    assert [seen["lr"] for seen in second.seen] == pytest.approx(rates[-len(second.seen) :])
    assert [seen["lr"] for seen in third.seen] == [seen["lr"] for seen in second.seen][-len(third.seen) :]


def test_two_doors_follow_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(optimizer(schedule=exponential()), tmp_path / "a")
    caplog.set_level(logging.INFO, LOG)
    task = fit(optimizer(lr=0.2, schedule=exponential()), tmp_path / "b", path=tmp_path / "a/step=6.ckpt")
    assert task.seen[0]["lr"] == pytest.approx(0.2 * 0.9**STOP)
    assert sum("The resumed fit differs" in message for message in caplog.messages) == 1


def test_the_state_of_the_optimizer_is_kept(tmp_path: Path) -> None:
    fit(optimizer(), tmp_path / "a")
    fit(optimizer(lr=0.0, weight_decay=0.0), tmp_path / "b", path=tmp_path / "a/step=6.ckpt", max_steps=7)
    (state,) = torch.load(tmp_path / "b/step=7.ckpt", weights_only=True)["optimizer_states"]
    assert state["state"][0]["step"] == 7


@pytest.mark.parametrize("release", ["this", "first"])
def test_another_optimizer_starts_without_a_state(release: str, tmp_path: Path) -> None:
    fit(optimizer(), tmp_path / "a")
    path = tmp_path / "a/step=6.ckpt"
    if release == "first":
        of_the_first_release(path)
    with pytest.warns(
        UserWarning, match=r"The optimizer changes from `.*` to `.*SGD`, which starts without a state at st"
    ):
        resumed = fit(optimizer(SGD, schedule=exponential(), momentum=0.9), tmp_path / "b", path=path)
    assert (resumed.seen[0]["lr"], resumed.seen[0]["momentum"]) == (pytest.approx(0.1 * 0.9**STOP), 0.9)
    assert len(resumed.seen) == EPOCHS * BATCHES - STOP
    (state,) = torch.load(tmp_path / "b/step=12.ckpt", weights_only=True)["optimizer_states"]
    assert state["state"][0].keys() == {"momentum_buffer"}


def plateaus(lr: float, patience: int, gamma: float = 0.9) -> Make:
    def make(task: LightningModule) -> Any:
        made = SGD(task.parameters(), lr=lr)
        plateau = ReduceLROnPlateau(made, factor=0.5, patience=patience)
        return [made], [
            {"scheduler": ExponentialLR(made, gamma), "interval": "step"},
            {"scheduler": plateau, "monitor": "loss", "interval": "step", "strict": False},
        ]

    return make


def test_several_schedulers_keep_their_progress_and_take_new_arguments(tmp_path: Path) -> None:
    first = fit(plateaus(0.1, patience=100), tmp_path / "a")
    path = tmp_path / "a/step=6.ckpt"
    twice = fit(plateaus(0.2, patience=7), tmp_path / "b", path=path)
    assert twice.seen[0]["lr"] == pytest.approx(2 * first.seen[STOP]["lr"])
    _, plateau = (config.scheduler for config in twice.trainer.lr_scheduler_configs)
    assert plateau.patience == 7
    assert plateau.last_epoch > STOP
    same = fit(plateaus(0.1, patience=100), tmp_path / "c", path=path)
    assert [seen["lr"] for seen in same.seen] == [seen["lr"] for seen in first.seen[STOP:]]


def test_a_schedule_that_does_not_reach_the_step_is_refused(tmp_path: Path) -> None:
    fit(optimizer(), tmp_path / "a")
    with pytest.raises(
        ConfigurationError, match=r"`lr_scheduler` should be a schedule that reaches .*`OneCycleLR`: Tried"
    ):
        fit(optimizer(schedule=one_cycle(1.0, 3)), tmp_path / "b", path=tmp_path / "a/step=6.ckpt")


def apart(task: Any) -> Any:
    groups: list[dict[str, Any]] = [{"params": [task.net.weight]}, {"params": [task.net.bias], "weight_decay": 0.0}]
    return AdamW(groups, lr=0.1)


def weight_alone(task: Any) -> Any:
    return AdamW([task.net.weight])


def two_optimizers(task: Any) -> Any:
    task.automatic_optimization = False
    return [AdamW([task.net.weight]), AdamW([task.net.bias])]


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (apart, r"in groups of \[2\] tensors. Found groups of \[1, 1\]"),
        (weight_alone, r"in groups of \[2\] tensors. Found groups of \[1\]"),
        (two_optimizers, r"as many optimizers .*: 1. Found 2"),
    ],
)
def test_other_parameters_are_refused(now: Make, problem: str, tmp_path: Path) -> None:
    fit(optimizer(), tmp_path / "a")
    with pytest.raises(ConfigurationError, match=problem):
        fit(now, tmp_path / "b", path=tmp_path / "a/step=6.ckpt")


def test_a_group_of_its_own_changes_alone(tmp_path: Path) -> None:
    fit(apart, tmp_path / "a")

    def now(task: Any) -> Any:
        made = apart(task)
        made.param_groups[1]["lr"] = 0.7
        return made

    task = fit(now, tmp_path / "b", path=tmp_path / "a/step=6.ckpt")
    assert [group["lr"] for group in task.optimizers().param_groups] == [0.1, 0.7]


@pytest.mark.parametrize("door", ["module", "exact"])
def test_callbacks_keep_what_they_are_made_with(door: str, tmp_path: Path) -> None:
    fit(optimizer(), tmp_path / "a", EarlyStopping("loss", patience=50), door=door)
    stopping = EarlyStopping("loss", patience=9)
    fit(optimizer(), tmp_path / "b", stopping, path=tmp_path / "a/step=6.ckpt", door=door)
    assert stopping.patience == 9


def test_what_it_is_made_with_is_plain(tmp_path: Path) -> None:
    made = optimizer(schedule=lambda made: LambdaLR(made, lambda step: 1 / (1 + step)))
    fit(made, tmp_path)
    (entry,) = torch.load(tmp_path / "step=6.ckpt", weights_only=True)[KEY]
    assert entry["class"] == "torch.optim.adamw.AdamW"
    assert entry["groups"][0]["betas"] == [0.9, 0.999]
    assert entry["schedulers"][0]["class"] == "torch.optim.lr_scheduler.LambdaLR"
