"""SIGTERM and Ctrl+C on the command line: statuses, the one line, and handlers that are as they were."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, Trainer

from lightning_sparsegrad import SparseGradCLI
from lightning_sparsegrad.main import main
from lightning_sparsegrad.resume._signals import SIGNALS
from lightning_sparsegrad.resume._stopping import ended_by_signal
from tests.command_line import DROP, LABELLED, QUICK, READER, SAVE, UNLABELLED, Plain
from tests.resume.runs import alternating

STATUSES = {signal.SIGTERM: 143, signal.SIGINT: 130}
ONE_OF_THEM = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
EVALUATE = [argument for argument in QUICK if "max_epochs" not in argument]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(signum) for signum in STATUSES]
    yield
    assert [signal.getsignal(signum) for signum in STATUSES] == before


class Signals(Callback):
    """Sends a signal to its own process in a hook, `times` times."""

    def __init__(self, hook: str, signum: int, times: int = 1, step: int = 0) -> None:
        self.left, self.step = times, step
        setattr(self, hook, lambda trainer, *_, **__: self.send(trainer, signum))

    def send(self, trainer: Trainer, signum: int) -> None:
        if self.left and trainer.global_step >= self.step:
            self.left -= 1
            os.kill(os.getpid(), signum)


class Caught(Signals):
    """Catches the exception of a signal, as a library may."""

    def send(self, trainer: Trainer, signum: int) -> None:
        with suppress(BaseException):
            super().send(trainer, signum)


class Signalled(Plain):
    """Gets a signal while it is constructed."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        os.kill(os.getpid(), signum)


def sending(hook: str, signum: int, **arguments: int) -> list[str]:
    given = [f"--trainer.callbacks.{name}={value}" for name, value in {"signum": int(signum), **arguments}.items()]
    return [f"--trainer.callbacks+={__name__}.Signals", f"--trainer.callbacks.hook={hook}", *given]


def ended(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, list[str]]:
    """Run the command line; return its status, and its final lines."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    return exit_info.value.code, [line for line in lines if line.startswith("stop")]


@pytest.mark.parametrize("signum", ONE_OF_THEM)
def test_before_there_is_a_trainer(signum: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", f"--model={__name__}.Signalled", f"--model.signum={int(signum)}", UNLABELLED, *QUICK]
    line = "stopped before the first step; no checkpoint was written"
    assert ended(arguments, capsys) == (STATUSES[signum], [line])


@pytest.mark.parametrize(
    ("hook", "signum"), alternating(["setup", "on_train_start", "on_sanity_check_start"], [*STATUSES])
)
def test_before_the_first_step(hook: str, signum: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = ended(["fit", READER, LABELLED, *DROP, *QUICK, SAVE, *sending(hook, signum)], capsys)
    assert (status, lines[-1]) == (STATUSES[signum], "stopped before the first step; no checkpoint was written")
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize("signum", ONE_OF_THEM)
def test_what_it_raises_is_caught(signum: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [argument.replace(".Signals", ".Caught") for argument in sending("setup", signum)]
    status, lines = ended(["fit", READER, LABELLED, *DROP, *QUICK, SAVE, *arguments], capsys)
    assert (status, lines) == (STATUSES[signum], ["stopped before the first step; no checkpoint was written"])
    main(["fit", READER, LABELLED, *DROP, *QUICK, SAVE])


@pytest.mark.parametrize(
    ("hook", "signum"),
    alternating(["on_validation_batch_start", "on_train_batch_start", "on_train_epoch_end"], [*STATUSES]),
)
def test_in_a_fit(hook: str, signum: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = ended(["fit", READER, LABELLED, *DROP, *QUICK, SAVE, *sending(hook, signum, step=1)], capsys)
    (path,) = Path("checkpoints").iterdir()
    steps = 2 if hook == "on_train_batch_start" else 4
    again = ["stopping after the current optimizer step; press Ctrl+C again to stop at once"]
    line = f"stopped at step {steps}; resume with sparsegrad fit --ckpt_path {path.absolute()}"
    assert (status, lines) == (STATUSES[signum], [*(again if signum == signal.SIGINT else []), line])
    main(["fit", f"--ckpt_path={path}", "--trainer.callbacks=[]"])


def test_ctrl_c_again_ends_a_fit_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = sending("on_before_backward", signal.SIGINT, times=2)
    status, lines = ended(
        ["fit", READER, LABELLED, *DROP, *QUICK, SAVE, "--trainer.accumulate_grad_batches=4", *arguments], capsys
    )
    assert (status, lines[-1]) == (130, "stopped at step 0; no checkpoint was written")


@pytest.mark.parametrize("signum", STATUSES)
def test_a_fit_that_does_not_resume_exactly(signum: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*DROP, *QUICK, SAVE, "--exact_resume=false", *sending("on_train_batch_start", signum, step=1)]
    status, lines = ended(["fit", READER, LABELLED, *arguments], capsys)
    steps = 2 if signum == signal.SIGTERM else 1
    assert (status, lines) == (STATUSES[signum], [f"stopped at step {steps}; no checkpoint was written"])


@pytest.mark.parametrize("signum", ONE_OF_THEM)
def test_after_the_last_step(signum: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = ended(["fit", READER, LABELLED, *DROP, *QUICK, SAVE, *sending("on_fit_end", signum)], capsys)
    (path,) = Path("checkpoints").iterdir()
    line = f"stopped at step 4; resume with sparsegrad fit --ckpt_path {path.absolute()}"
    assert (status, lines) == (STATUSES[signum], [line])


@pytest.mark.parametrize(
    ("moment", "signum"),
    [
        *alternating(["validate on_validation_batch_start", "test on_test_start"], [*STATUSES]),
        *(
            pytest.param(moment, signum, marks=pytest.mark.long)
            for moment in (
                *("validate setup", "validate teardown"),
                *("test on_test_batch_start", "predict on_predict_epoch_end"),
            )
            for signum in STATUSES
        ),
    ],
)
def test_in_other_commands(moment: str, signum: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    command, hook = moment.split()
    status, lines = ended([command, READER, LABELLED, *DROP, *EVALUATE, *sending(hook, signum)], capsys)
    assert (status, lines) == (STATUSES[signum], [f"stopped before `{command}` was done"])


def test_a_handler_of_the_program_stays(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def own(signum: int, frame: FrameType | None) -> None:
        calls.append(signum)

    before = signal.signal(signal.SIGTERM, own)
    try:
        arguments = sending("on_train_batch_start", signal.SIGTERM, step=1)
        status, lines = ended(["fit", READER, LABELLED, *DROP, *QUICK, SAVE, *arguments], capsys)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (status, len(lines), calls) == (143, 1, [signal.SIGTERM])


def test_a_command_line_of_somebody_else_ends_alike(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = sending("on_train_batch_start", signal.SIGTERM, step=1)
    with pytest.raises(SystemExit) as exit_info:
        SparseGradCLI(args=["fit", READER, LABELLED, *DROP, *QUICK, SAVE, *arguments])
    assert exit_info.value.code == 143
    assert "stopped at step 2; resume with" in capsys.readouterr().err


@pytest.mark.parametrize("signum", ONE_OF_THEM)
def test_a_study_that_reads_its_arms(
    signum: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"signalling_{int(signum)}"  # a module is imported once
    (tmp_path / f"{name}.py").write_text(f"import os\n\nos.kill(os.getpid(), {int(signum)})\nModel = None\n")
    study = {"base": [{"model": f"{name}.Model"}], "arms": {"plain": [], "other": []}, "seeds": 1, "metric": "val/loss"}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    arguments = ["study", "--config=study.yaml", "--folder=kept"]
    assert ended(arguments, capsys) == (STATUSES[signum], ["stopped before `study` was done"])
    assert not Path("kept").exists()


@pytest.mark.parametrize("signum", STATUSES)
def test_an_error_after_a_signal_is_its_end_for_one_of_several_processes(signum: signal.Signals) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    error = RuntimeError("Connection reset by peer")
    with SIGNALS.ending():
        assert ended_by_signal(trainer, error) is error
        with suppress(KeyboardInterrupt, SystemExit):  # as what C code calls back does
            os.kill(os.getpid(), signum)
        assert ended_by_signal(trainer, error) is error  # nobody else can have ended
        trainer.__class__ = type("OneOfTwo", (Trainer,), {"world_size": 2})
        ended_so = ended_by_signal(trainer, error)
    assert isinstance(ended_so, SystemExit)
    assert ended_so.code == STATUSES[signum]


@pytest.mark.parametrize("signum", STATUSES)
def test_a_signal_after_all_is_done_changes_nothing(signum: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    join, sent = Thread.join, []

    def signal_and_join(self: Thread, timeout: float | None = None) -> None:
        sent.append(signum)
        os.kill(os.getpid(), signum)
        join(self, timeout)

    monkeypatch.setattr(Thread, "join", signal_and_join)
    with SIGNALS.ending():
        pass
    assert sent == [signum]
