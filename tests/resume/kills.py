"""Stops commands at random moments, in every possible way, and compares their final results.

`python -m tests.resume.kills FOLDER KILLS SEED [FAMILY]` prints a JSON line for each kill. A way is a signal, a
target and a moment. Ways are drawn from the seed and tried in chains: a command is started, stopped, resumed, stopped
again, and in the end left alone; then it has to have come to what an undisturbed one comes to.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import torch

from tests.resume import killed
from tests.resume.runs import assert_same_bits, checkpoints

SECONDS = 60  # after which what is still there hangs, or is an orphan
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_TARGETS = {
    "one": ("process", "group"),
    "ddp": ("launcher", "other rank", "group"),
    "study": ("study", "a run", "group"),
}
_OFTEN = {"one": 2, "ddp": 1, "study": 1}
_CHAIN = 4
_OF_THE_RUN = {"callbacks", "lightning_sparsegrad_config", "lightning_sparsegrad_folder"}  # with folders of the run


@dataclass
class Kill:
    """A way to stop a command, and its result."""

    family: str
    signal: str
    target: str
    moment: str
    occurrence: int
    delay: float
    where: str = ""
    status: int | None = None
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def ways(draw: random.Random, families: tuple[str, ...]) -> Iterator[Kill]:
    """Yield ways without end: all of them in a random order, again and again."""
    every = [
        (family, name, target, moment)
        for family in families
        for name, target, moment in product(_SIGNALS, _TARGETS[family], killed.MOMENTS)
        for _ in range(_OFTEN[family])
    ]
    while True:
        draw.shuffle(every)
        for family, name, target, moment in every:
            occurrence = {"train": draw.randint(1, 15), "validation": draw.randint(1, 6), "write": draw.randint(1, 6)}
            delay = draw.uniform(0, 0.6 if moment == "start" else 0.03)
            yield Kill(family, name.name, target, moment, occurrence.get(moment, 1), delay)


class Command:
    """A command that runs, and all processes of it."""

    def __init__(self, family: str, shared: Path, folder: Path) -> None:
        kept = list(checkpoints(folder / "checkpoints"))
        self.resumed = kept[-1].name if kept else None
        self._pipe, writes = os.pipe()
        self.known: dict[int, str] = {}  # the ranks of its processes
        self._text = b""
        arguments = killed.arguments(family, shared, folder, kept[-1] if kept else None)
        self.process = killed.start(arguments, folder / "output.txt", folder / "cache", writes)
        os.close(writes)
        self.status: int | None = None

    def marks(self, seconds: float) -> Iterator[tuple[int, str]]:
        """Yield each mark as it comes, until the first process has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended():
            if not select.select([self._pipe], [], [], 0.02)[0]:
                continue
            *lines, self._text = (self._text + os.read(self._pipe, 65536)).split(b"\n")
            for line in lines:
                process, rank, moment = line.decode().split(" ")
                self.known[int(process)] = rank
                yield int(process), moment

    def ended(self) -> bool:
        if self.status is None:
            process_id, status = os.waitpid(self.process, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if process_id else None
        return self.status is not None

    def alive(self) -> list[int]:
        """Return its processes that have not ended."""
        stats = {process: _stat(process) for process in (*self.known, *_processes())}
        mine = {process for process, stat in stats.items() if stat[3:4] == [str(self.process)]} | self.known.keys()
        return [process for process in mine if stats[process] and stats[process][0] != "Z"]

    def wait(self, seconds: float) -> float:
        """Wait until nothing is left of it; return how long that took."""
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            for _ in self.marks(0.05):
                pass
            if self.ended() and not self.alive():
                break
            time.sleep(0.01)
        return time.monotonic() - begun

    def close(self) -> None:
        for process in self.alive():
            os.kill(process, signal.SIGKILL)
        self.wait(5)
        os.close(self._pipe)


def strike(command: Command, kill: Kill) -> bool:
    """Wait for the moment and send the signal; return whether the command was still there."""
    left, wants_run, wants_rank = kill.occurrence, kill.target == "a run", kill.target == "other rank"
    for process, moment in command.marks(120):
        left -= moment == kill.moment and not (wants_run and process == command.process)
        victim = next((known for known, rank in command.known.items() if rank == "1"), None)
        if left > 0 or (wants_rank and victim is None):
            continue
        time.sleep(kill.delay)
        victim = victim if wants_rank else process if wants_run else command.process
        if command.ended() or victim is None:
            return False
        number = signal.Signals[kill.signal]
        try:
            os.killpg(victim, number) if kill.target == "group" else os.kill(victim, number)
        except ProcessLookupError:
            return False
        return True
    return False


def judge(command: Command, kill: Kill, folder: Path) -> None:
    """Write down how a command ended."""
    # a study goes on without one of its runs
    kill.seconds = round(command.wait(SECONDS if kill.target != "a run" else 2 * SECONDS), 2)
    kill.status = command.status
    if command.status is None:
        kill.faults.append("hung")
    elif alive := command.alive():
        kill.faults.append(f"{len(alive)} orphans")
    number = signal.Signals[kill.signal]
    shell = 128 - command.status if (command.status or 0) < 0 else command.status  # type: ignore[operator]
    is_other = kill.target in ("other rank", "a run")  # the rest is told by the processes that were not stopped
    if command.status is not None and not is_other and shell not in (128 + number, 0 if kill.moment == "end" else -1):
        kill.faults.append(f"status {command.status}")
    if command.status == 128 + number and not is_other:  # by itself
        shown = (folder / "output.txt").read_text().rpartition("========")[2]
        kill.faults += [] if "stopped" in shown else ["not a word"]
    command.close()


def leftovers(folder: Path) -> list[str]:
    """Return the half-written files in a folder."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(name) for name in names if name.suffix == ".part" or name.name.startswith("tmp"))


def contents(path: Path, *, is_resumed: bool) -> dict[str, Any]:
    """Return the content of a checkpoint, without entries that differ between runs.

    One that a command was resumed from may be of another moment of its step: of before a validation that was cut short.
    Where that moment leads to is in those after it.
    """
    checkpoint = torch.load(path, weights_only=True)
    if is_resumed:
        return {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "global_step")}
    for process in checkpoint["exact_resume"]["processes"]:
        del process["counters"]["checkpoints"]  # with the folders of the run
    return {name: value for name, value in checkpoint.items() if name not in _OF_THE_RUN}


def differences(family: str, folder: Path, whole: Path, resumed: set[str]) -> Iterator[str]:
    """Yield the final differences between a stopped command and an undisturbed one.

    Args:
        family: Which command it is.
        folder: Where the one that was stopped has written.
        whole: The same of the other one.
        resumed: The checkpoints that it was resumed from.
    """
    if family == "study":
        kept, expected = (
            {p.parent.name: _result(p) for p in f.glob("study/runs/*/result.json")} for f in (folder, whole)
        )
        yield from ["other results"] if kept != expected else []
        yield from [] if (folder / "study" / "report.md").is_file() else ["no report"]
        return
    kept_paths, paths = ({p.name: p for p in (f / "checkpoints").glob("*.ckpt")} for f in (folder, whole))
    yield from (f"no {name}" for name in paths.keys() - kept_paths.keys())
    for name in sorted(paths.keys() & kept_paths.keys()):
        try:
            kept, expected = (contents(p[name], is_resumed=name in resumed) for p in (kept_paths, paths))
            assert_same_bits(kept, expected, name)
        except AssertionError as error:
            yield f"differs: {str(error).splitlines()[0]}"
            return


def _result(path: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "seconds"}


def alone(command: Command) -> list[str]:
    """Let a command run to its end; return what went wrong."""
    command.wait(120)
    status = command.status
    faults = [] if status == 0 else ["the last one hung" if status is None else f"the last one ended with {status}"]
    command.close()
    return faults


def chain(kills: list[Kill], shared: Path, folder: Path, whole: Path) -> list[Kill]:
    """Start a command, stop it in the first of some ways, resume it, and let the last one end; return these ways."""
    (folder / "checkpoints").mkdir(parents=True)
    family, tried, resumed = kills[0].family, list[Kill](), set[str]()
    while kills and len(tried) < _CHAIN:
        kill = kills[0]
        kill.where = folder.name
        if kill.moment == "tokenise":
            shutil.rmtree(folder / "cache", ignore_errors=True)
        with (folder / "output.txt").open("a") as output:
            output.write(f"\n======== {kill}\n")
        command = Command(family, shared, folder)
        resumed.add(str(command.resumed))
        came = strike(command, kill)
        if not came and tried:  # what is resumed has less to do: it is the first of another chain
            command.wait(120)
            command.close()
            break
        tried.append(kills.pop(0))
        kill.faults += [] if came else ["came too late"]
        judge(command, kill, folder)
        for path in folder.rglob("*.ckpt"):
            torch.load(path, weights_only=True)
        if kill.moment == "end" or kill.status == 0:
            break  # there is nothing more to stop
    last = Command(family, shared, folder)
    faults = alone(last) + [f"left {name}" for name in leftovers(folder)]
    faults += differences(family, folder, whole, {*resumed, str(last.resumed)})
    for kill in tried:
        kill.faults += faults
    return tried


def main(root: Path, wanted: int, seed: int, families: tuple[str, ...]) -> None:
    draw = random.Random(seed)  # noqa: S311  # moments, no secrets
    shared = root / "shared"
    killed.material(shared)
    drawn = ways(draw, families)
    pools: dict[str, list[Kill]] = {}
    for kill, _ in zip(drawn, range(wanted), strict=False):
        pools.setdefault(kill.family, []).append(kill)
    for family in pools:
        (root / f"{family} whole" / "checkpoints").mkdir(parents=True)
        if faults := alone(Command(family, shared, root / f"{family} whole")):
            raise RuntimeError(f"{faults} {(root / f'{family} whole' / 'output.txt').read_text()[-3000:]}")
    for number in count():
        for family, kills in pools.items():
            for kill in chain(kills, shared, root / f"{family} {number}", root / f"{family} whole") if kills else ():
                print(json.dumps(asdict(kill)), flush=True)  # noqa: T201
        if not any(pools.values()):
            break


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # much faster


def _stat(process: int) -> list[str]:
    """Return what the system tells of a process: its state, parent, group and session."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split(" ")
    except OSError:
        return []


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), tuple(sys.argv[4:]) or killed.FAMILIES)
