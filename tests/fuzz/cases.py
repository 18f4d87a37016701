"""A bad input, its result, and the check that a user sees what they should."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import torch
import yaml

from lightning_sparsegrad.main import main

LIMIT = 10.0  # seconds of a processor until a run is taken for accepted, or for hanging while it is read
PATIENCE = 100.0  # seconds, where it only waits
MARK = "pwned"  # the file that code in a config, a checkpoint or a data file would make
_SETTINGS = ("SPARSEGRAD_DEBUG", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
# what libraries say before the one line of ours: progress bars, and what Lightning logs
_OTHERS = re.compile(
    r"\s*$|Seed set to|No seed found|GPU available|TPU available|HPU available|💡|.*`Trainer|Initializing distributed|"
    r"distributed_backend|All distributed|Using |You are using a CUDA|Running in `?fast_dev_run|Detected Keyboard|"
    r"Restoring states|Restored all states|Loaded model weights|Setting |.*`weights_only` was not set|.*is deprecated|"
    r"Generating |Saving the dataset|Map|Loading weights|Writing model|.*\d+%\||.*\d+ examples|.*it/s|Downloading|"
    r"127\.0\.0\.1 - |\[.*(WARN|INFO)|Failed to load JSON|"
    r".*LOAD REPORT|.*UNEXPECTED|.*MISSING|.*MISMATCH|[-+=\s|:]+$|Key .*Status|Notes:|classifier"
)


@dataclass(frozen=True)
class Case:
    """A command line with its files.

    Args:
        name: How the generator made it.
        arguments: The command line.
        files: The content of each file, by its path in the folder the command runs in.
        says: Words one of which a refusal should hold; none where the generator does not know.
        finite: Whether a run that is accepted has to end with a finite loss.
        prepare: What else has to be done to the folder first (links, permissions).
    """

    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None
    finite: bool = False


@dataclass(frozen=True)
class CaseResult:
    """The result of a case: `accepted`, `refused`, or a sentence about what is wrong with its end."""

    verdict: str
    text: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict not in ("accepted", "refused")


class _TimeIsUpError(BaseException):
    pass


def try_in(folder: Path, case: Case) -> CaseResult:
    """Run a case in an empty folder, in this process, and judge it."""
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if case.prepare is not None:
        case.prepare(folder)
    before = _listing(folder)
    status: int | str | None = 0
    with _inside(folder), redirect_stdout(StringIO()) as table, redirect_stderr(StringIO()) as errors:
        try:
            main(list(case.arguments))
        except SystemExit as error:
            status = error.code
        except _TimeIsUpError as error:
            status = 0 if _training(error) else "it hangs"
        except BaseException as error:  # whatever it is, it is what the test looks for
            status = f"traceback of {type(error).__name__}: {str(error)[:400]}"
    text = errors.getvalue()
    written = {name: path for name, path in _listing(folder).items() if name not in before}
    return _judge(case, status, text, table.getvalue(), written)


def _judge(case: Case, status: Any, text: str, table: str, written: Mapping[str, Path]) -> CaseResult:
    lines = [line.split("\r")[-1] for line in text.splitlines()]
    own = [line for line in lines if line.startswith("error: ") or not _OTHERS.match(line)]
    if any(Path(name).name == MARK for name in written):  # a folder may be called after a value, with the command in it
        return CaseResult("it ran code", text)
    if isinstance(status, str):
        return CaseResult(status, text)
    if "Traceback (most recent call last)" in text and _TimeIsUpError.__name__ not in text:
        return CaseResult("a traceback is printed", text)
    if broken := [name for name, path in written.items() if not _whole(path)]:
        return CaseResult(f"it left half of {broken}", text)
    if status == 0:
        finite = not case.finite or re.search(r"train/loss\s*│ -?\d", table)
        return CaseResult("accepted") if finite else CaseResult("no finite loss", table)
    if len(own) != 1 or not own[0].startswith("error: "):
        return CaseResult(f"{len(own)} lines", "\n".join(own))
    if case.says and not any(word in own[0] for word in case.says):
        return CaseResult(f"it names none of {case.says}", own[0])
    if len(own[0]) > 1500:
        return CaseResult("the line is long", own[0])
    return CaseResult("refused", own[0])


def _whole(path: Path) -> bool:
    """Whether a file written by a run is complete."""
    if path.suffix == ".yaml":
        return isinstance(yaml.safe_load(path.read_text()), dict)
    if path.suffix == ".ckpt":
        return "state_dict" in torch.load(path, weights_only=True)
    return True


def _listing(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*")}


def _training(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name in ("fit", "_run_subcommand"):
            return True
        trace = trace.tb_next
    return False


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Run in the folder, with a clean environment, without warnings, and with a time limit."""

    def stop(*_: Any) -> None:
        raise _TimeIsUpError

    here, arguments = Path.cwd(), sys.argv
    settings = {name: os.environ.pop(name) for name in _SETTINGS if name in os.environ}
    timers = {signal.SIGPROF: (signal.ITIMER_PROF, LIMIT), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE)}
    handlers, interrupt = {signum: signal.signal(signum, stop) for signum in timers}, signal.getsignal(signal.SIGINT)
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds, 1.0)  # again: Python swallows what is raised while it collects
    hubs: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    offline = [(hub, hub.HF_HUB_OFFLINE) for hub in hubs]
    for hub, _ in offline:  # a name that may be a hub's is not to be waited for
        hub.HF_HUB_OFFLINE = True
    os.chdir(folder)
    sys.argv = ["sparsegrad"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for signum, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(signum, handlers[signum])
        signal.signal(signal.SIGINT, interrupt)
        for hub, before in offline:
            hub.HF_HUB_OFFLINE = before
        os.chdir(here)
        sys.argv = arguments
        for name in _SETTINGS:
            os.environ.pop(name, None)
        os.environ.update(settings)
