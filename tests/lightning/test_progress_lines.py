"""`ProgressLines`: the lines of a fit in a log without a terminal."""

import os
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_sparsegrad import ConfigurationError, ProgressLines
from tests.lightning.tasks import Batch, Regression, dataset, loader, trainer

STEP, CHECK = 10.0, 2.0  # seconds of a training batch, and of one of another pass


class Clock(Callback):
    """Time that advances with the batches alone; the first one is slow."""

    def __init__(self, first: float = 500.0) -> None:
        self.now, self._first = 0.0, first

    def __call__(self) -> float:
        return self.now

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += STEP + self._first
        self._first = 0.0

    def on_validation_batch_start(self, *_: Any) -> None:
        self.now += CHECK

    def on_test_batch_start(self, *_: Any) -> None:
        self.now += CHECK

    def on_predict_batch_start(self, *_: Any) -> None:
        self.now += CHECK


class Constant(Regression):
    """A task whose losses are known, and nothing is learnt."""

    value = 0.25

    def loss(self, batch: Batch) -> Tensor:
        return self.value + 0.0 * super().loss(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch)


class Endless(torch.utils.data.IterableDataset[Any]):
    """Data without a length."""

    def __iter__(self) -> Any:
        return iter([dataset(1)[0]] * 6)


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def run_of(lines: ProgressLines | None = None, *, clock: Clock | None = None, **arguments: Any) -> Trainer:
    lines, clock = lines or ProgressLines(STEP, first=STEP), clock or Clock()
    lines._clock = clock
    return trainer(**{**arguments, "callbacks": [clock, *arguments.get("callbacks", []), lines]})


def fit(
    lines: ProgressLines | None = None,
    *,
    task: Regression | None = None,
    data: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    ckpt_path: str | None = None,
    stream: StringIO | None = None,
    **arguments: Any,
) -> list[str]:
    """Fit; return what was written."""
    run = run_of(lines, **arguments)
    with redirect_stderr(stream or StringIO()) as written:
        run.fit(task or Constant(), loader() if data is None else data, validation, ckpt_path=ckpt_path)
    assert isinstance(written, StringIO)
    return written.getvalue().splitlines()


def test_a_line_says_how_far_it_is_and_what_is_left() -> None:
    lines = fit(validation=loader(3), max_epochs=2)
    # 14 steps of 10 s and two validations of 3 batches of 2 s; the first step was slower, and does not count
    assert lines[0] == "step 1/14 (7%), epoch 1/2, loss 0.25"
    assert lines[1] == "step 2/14 (14%), epoch 1/2, loss 0.25, 0:02:00 left"
    assert lines[7] == "step 8/14 (57%), epoch 2/2, loss 0.25, val/loss 0.25, 0:01:06 left"
    assert lines[-1] == "step 14/14 (100%), epoch 2/2, loss 0.25, val/loss 0.25, 0:00:00 left"
    assert len(lines) == 14


def test_lines_keep_their_distance() -> None:
    lines = fit(ProgressLines(35.0), max_epochs=3)
    assert [line.split("/")[0] for line in lines] == [f"step {step}" for step in (1, 5, 9, 13, 17, 21)]
    assert [line.split("/")[0] for line in fit(ProgressLines(1e6, first=515.0))] == ["step 2"]
    assert fit(ProgressLines(float("inf"))) == []


def test_a_long_validation_has_lines() -> None:
    lines = fit(ProgressLines(5.0), validation=loader(20), max_epochs=2, limit_train_batches=2)
    within = [line for line in lines if "validation" in line]
    # it takes 40 s, of which 34 s are to come, then another, and two steps
    assert within[0] == "step 2/4 (50%), epoch 1/2, validation batch 3/20 (15%), loss 0.25, 0:01:34 left"
    second = [line for line in within if "epoch 2/2" in line]
    assert second[0].endswith("validation batch 3/20 (15%), loss 0.25, val/loss 0.25, 0:00:34 left")


def test_passes_of_their_own_have_lines() -> None:
    with redirect_stderr(StringIO()) as written:
        for name in ("validate", "test", "predict"):
            getattr(run_of(), name)(Constant(), loader(12), **({} if name == "predict" else {"verbose": False}))
    assert isinstance(written, StringIO)
    lines = written.getvalue().splitlines()
    names = ("validation", "test", "prediction")
    assert lines == [
        f"{name} batch {end}" for name in names for end in ("5/12 (41%), 0:00:14 left", "10/12 (83%), 0:00:04 left")
    ]


class Remaining(Timer):
    """A limit of which eight seconds are left, and which ends a fit after six steps."""

    def time_remaining(self, stage: str = "train") -> float:
        return 8.0

    def on_train_batch_end(self, run: Trainer, *_: Any) -> None:
        run.should_stop = run.global_step >= 6


def test_what_is_not_known_is_left_out() -> None:
    endless = DataLoader(Endless(), batch_size=None)
    scheduled = GradientAccumulationScheduler({0: 1, 1: 2})

    def fifth(**arguments: Any) -> str:
        return fit(**arguments)[4].replace(", loss 0.25", "")

    assert fifth(max_epochs=-1, max_steps=6) == "step 5/6 (83%), epoch 1, 0:00:10 left"
    assert fifth(max_epochs=4, data=endless) == "step 5, epoch 1/4"
    assert fifth(max_epochs=-1, max_steps=6, data=endless) == "step 5/6 (83%), epoch 1, 0:00:10 left"
    assert fifth(max_epochs=-1, limit_train_batches=6, callbacks=[Remaining()]) == "step 5, epoch 1, 0:00:08 left"
    assert fifth(max_epochs=3, accumulate_grad_batches=2) == "step 2/12 (16%), epoch 1/3, 0:03:10 left"
    assert fifth(max_epochs=3, callbacks=[scheduled]) == "step 5/15 (33%), epoch 1/3, 0:01:40 left"


def test_a_resumed_fit_counts_from_where_it_resumes(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"

    class Save(Callback):
        def on_train_epoch_end(self, run: Trainer, *_: Any) -> None:
            run.save_checkpoint(path)

    fit(callbacks=[Save()])
    lines = fit(max_epochs=3, ckpt_path=str(path))
    assert lines[0] == "step 8/21 (38%), epoch 2/3, loss 0.25"
    assert lines[1] == "step 9/21 (42%), epoch 2/3, loss 0.25, 0:02:00 left"
    lines = fit(max_epochs=3, ckpt_path=str(path), accumulate_grad_batches=2)
    assert [line.endswith("left") for line in lines[:4]] == [False, False, False, True]  # two steps after it


def test_a_loss_that_is_no_number_is_shown() -> None:
    class Lost(Constant):
        value = float("nan")

    lines = fit(task=Lost(), validation=loader(1), max_epochs=2)
    assert "loss nan, val/loss nan" in lines[-1]


def test_metrics_of_parts_give_way_to_their_mean() -> None:
    class Many(Constant):
        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            names = ("val/accuracy/de", "val/accuracy/mean", "val/f1", "val/loss", "val/mcc", "val/recall", "lr")
            self.log_dict(dict.fromkeys(names, 0.5))

    lines = fit(task=Many(), validation=loader(1), max_epochs=2)
    assert lines[-1].startswith(
        "step 14/14 (100%), epoch 2/2, loss 0.25, val/loss 0.5, val/accuracy/mean 0.5, val/f1 0.5, val/mcc 0.5, 0:"
    )


def test_steps_of_several_optimizers_have_no_total() -> None:
    class Manual(Constant):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), 0.1) for _ in range(2)]

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.step()

    assert fit(task=Manual())[0] == "step 2, epoch 1/1"


def test_an_error_leaves_whole_lines() -> None:
    class Broken(Constant):
        def on_train_batch_end(self, *_: Any) -> None:
            raise ValueError("broken")

    stream = StringIO()
    with pytest.raises(ValueError, match="broken"):
        fit(task=Broken(), stream=stream)
    assert stream.getvalue() == "step 1/7 (14%), epoch 1/1, loss 0.25\n"


def test_numbers_are_read_for_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Tensor] = []
    original = Tensor.__float__

    def reading(tensor: Tensor) -> float:
        read.append(tensor)
        return original(tensor)

    monkeypatch.setattr(Tensor, "__float__", reading)
    fit(ProgressLines(float("inf")), max_epochs=3)
    assert not read
    fit(ProgressLines(35.0), max_epochs=3)
    assert len(read) == 6


def test_a_full_disk_ends_no_fit() -> None:
    class Full(StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, f"No space left on device for {text}")

    assert fit(stream=Full()) == []


def test_a_bar_is_shown_where_stdout_is_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    class Own(TQDMProgressBar):
        pass

    def enabled(bar: Any) -> bool:
        lines = fit(callbacks=[bar], enable_progress_bar=True, fast_dev_run=True)
        assert lines == ["step 1/1 (100%), epoch 1/1, loss 0.25"]
        return bool(bar.is_enabled)

    assert [enabled(bar()) for bar in (RichProgressBar, TQDMProgressBar)] == [False, False]
    assert capsys.readouterr().out == ""
    assert enabled(Own())
    with redirect_stdout(Terminal()):
        assert enabled(RichProgressBar())


def test_a_search_before_a_fit_leaves_its_bar_hidden(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for checks in (0, 1):
        search = LearningRateFinder(num_training_steps=3, update_attr=False)
        bar = RichProgressBar()
        run = trainer(
            callbacks=[ProgressLines(float("inf")), search, bar],
            enable_progress_bar=True,
            num_sanity_val_steps=checks,
            default_root_dir=tmp_path,
        )
        run.fit(Constant(), loader(4), loader(2))
        assert search.optimal_lr is not None
        assert not bar.is_enabled
        assert capsys.readouterr().out == ""


def test_lines_are_for_files_and_pipes_and_not_for_a_terminal(tmp_path: Path) -> None:
    theirs, ours = os.openpty()
    with open(ours, "w") as terminal, open(tmp_path / "log.txt", "w") as log:  # noqa: PTH123  # a descriptor
        for out, error in ((terminal, terminal), (log, terminal), (terminal, log)):
            with redirect_stdout(out), redirect_stderr(error):
                run_of().fit(Constant(), loader(1))
        terminal.flush()
    shown = os.read(theirs, 10_000).decode()
    os.close(theirs)
    assert shown.count("step 1/1") == 1  # the bar, on stdout, is in the file
    assert (tmp_path / "log.txt").read_text() == "step 1/1 (100%), epoch 1/1, loss 0.25\n"


def test_intervals_are_positive() -> None:
    for arguments in ({"interval": 0.0}, {"first": -1.0}, {"interval": True}):
        with pytest.raises(ConfigurationError, match="should be a positive number of seconds"):
            ProgressLines(**arguments)
