"""Wrong arguments of a Trainer that Lightning would accept silently."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sparsegrad import ConfigurationError, SparseGradCLI
from lightning_sparsegrad.cli._trainer_checks import check_trainer
from tests.command_line import PLAIN, QUICK


def checked(*, fits: bool = True, **arguments: Any) -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_epochs": 1}
    check_trainer(Trainer(**{**quiet, **arguments}), fits=fits)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"max_epochs": 0},
        r"`max_epochs` of the Trainer should be positive: 0 trains nothing",
    ),
    ({"max_steps": 0}, "Found `max_steps = 0`"),
    ({"limit_train_batches": 0}, "Found `limit_train_batches = 0`"),
    ({"min_epochs": 5}, r"`min_epochs` of the Trainer should be at most `max_epochs = 1`\. Found `min_epochs = 5`"),
    ({"max_steps": 3, "min_steps": 5}, "Found `min_steps = 5`"),
    ({"accumulate_grad_batches": 0}, "Found `accumulate_grad_batches = 0`"),
    ({"gradient_clip_val": -1.0}, "Found `gradient_clip_val = -1.0`"),
    ({"gradient_clip_val": float("nan")}, "Found `gradient_clip_val = nan`"),
    ({"num_sanity_val_steps": -5}, "Found `num_sanity_val_steps = -5`"),
    ({"log_every_n_steps": -1}, "Found `log_every_n_steps = -1`"),
    ({"val_check_interval": 0}, "Found `val_check_interval = 0`"),
    ({"check_val_every_n_epoch": 0}, "Found `check_val_every_n_epoch = 0`"),
    ({"check_val_every_n_epoch": -1}, "Found `check_val_every_n_epoch = -1`"),
    ({"default_root_dir": "a::b"}, "`default_root_dir` of the Trainer should be a folder without `::`"),
    ({"callbacks": [ModelCheckpoint(filename="{epoch")]}, "`filename` of `ModelCheckpoint` should be a template"),
    ({"callbacks": [ModelCheckpoint(filename="{}")]}, "Found `filename = '{}'`"),
    ({"callbacks": [ModelCheckpoint(filename="{epoch:zz}")]}, "Found `filename = '{epoch:zz}'`"),
    ({"callbacks": [ModelCheckpoint(dirpath="a::b")]}, "`dirpath` of the Trainer should be a folder without `::`"),
]
LET_THROUGH: list[dict[str, Any]] = [
    {},
    {"gradient_clip_val": 0.0},
    {"num_sanity_val_steps": -1},
    {"log_every_n_steps": 0},
    {"check_val_every_n_epoch": None, "val_check_interval": 5},
    {"max_steps": 5, "min_steps": 5},
    {"max_epochs": -1},
    {"callbacks": [ModelCheckpoint(filename="[1]-{epoch:02d}-{val/loss:.2f}")]},
    {"max_epochs": None, "max_steps": -1, "min_epochs": 3, "max_time": "00:00:00:01"},
]


def test_what_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in REFUSED:
        with subtests.test(arguments=str(arguments)), pytest.raises(ConfigurationError, match=message):
            checked(**arguments)
    (tmp_path / "a::b").mkdir()
    monkeypatch.chdir(tmp_path / "a::b")
    with pytest.raises(ConfigurationError, match="without `::` in its path"):
        checked()


def test_what_works_is_let_through(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for arguments in LET_THROUGH:
        with subtests.test(arguments=str(arguments)):
            checked(default_root_dir=str(tmp_path / "[1]"), **arguments)
    checked(fits=False, max_epochs=0, default_root_dir=tmp_path)  # a validation need not train


def test_a_seed_out_of_range_is_refused() -> None:
    quiet = [argument for argument in QUICK if "seed" not in argument]
    for seed, limit in {-1: "at least 0", 2**32: "at most 4294967295", 10**30: "at most 4294967295"}.items():
        sentence = f"`seed_everything` should be {limit}. Found `seed_everything = {seed}`"
        with pytest.raises(ConfigurationError, match=sentence):
            SparseGradCLI(args=[PLAIN, *quiet, f"--seed_everything={seed}"], run=False)
    for other in (0, 2**32 - 1, "true", "false"):
        SparseGradCLI(args=[PLAIN, *quiet, f"--seed_everything={other}"], run=False)
