"""Launchers of runs: as processes on this machine, or on a Ray cluster."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from lightning_sparsegrad.cli._faults import HINT
from lightning_sparsegrad.cli._threads import cores, shared_by
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._signals import STATUSES
from lightning_sparsegrad.studies._recorder import LOCK, PARENT, RESULT, SECONDS_TO_GO, write_result
from lightning_sparsegrad.studies._runs import LOG, Run

Launcher = Literal["local", "ray"]
_TAIL = 2_000  # characters at the end of a log that are searched for a reason


def launch(runs: Sequence[Run], launcher: Launcher, *, jobs: int) -> Iterator[Run]:
    """Execute each run in its own process, several at a time; yield each run when its process has ended.

    Args:
        runs: The runs, in the order in which they start.
        launcher: `"local"` for this machine; `"ray"` for the Ray cluster that `RAY_ADDRESS` names, else for a new one
            on this machine. The machines of a cluster must share the folder.
        jobs: The number of runs at a time. Each gets an equal share of this machine's cores, unless `OMP_NUM_THREADS`
            is set.

    Raises:
        ConfigurationError: If the launcher is Ray and it is not installed.
    """
    yield from (_launch_here if launcher == "local" else _launch_on_ray)(runs, jobs)


def _launch_here(runs: Sequence[Run], jobs: int) -> Iterator[Run]:
    devices: SimpleQueue[int] = SimpleQueue()
    for device in range(jobs):
        devices.put(device)

    def start(run: Run) -> Run:
        device = devices.get()
        try:
            execute(run, threads=shared_by(jobs), device=device if jobs > 1 else None)
        finally:
            devices.put(device)
        return run

    with _cancelling(ThreadPoolExecutor(jobs)) as pool:
        for done in as_completed([pool.submit(start, run) for run in runs]):
            yield done.result()


@contextmanager
def _cancelling(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Start no more runs once the study is stopped, and terminate those that run."""
    try:
        yield pool
    except BaseException:
        for process in list(_RUNNING):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _launch_on_ray(runs: Sequence[Run], jobs: int) -> Iterator[Run]:
    if not find_spec("ray"):
        raise ConfigurationError(
            "Parameter `launcher` should be 'local' if Ray is not installed (`pip install lightning-sparsegrad[ray]`). "
            "Found `launcher = 'ray'`."
        )
    import ray  # an extra

    threads, count = shared_by(jobs), max(1, cores() // jobs)
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    remote: Any = ray.remote(num_cpus=count, num_gpus=1 if resources.get("GPU") else 0, max_retries=0)
    start: Callable[..., Any] = remote(execute).remote
    try:
        waiting = {start(run, threads=threads): run for run in runs}
        while waiting:
            done, _ = ray.wait(list(waiting))
            for reference in done:
                run = waiting.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    write_result(run.folder, {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"})
                yield run
    finally:
        ray.shutdown()


def execute(run: Run, *, threads: Mapping[str, str], device: int | None = None) -> None:
    """Execute a run in its own process, which leaves the result in the run's folder.

    Args:
        run: The run. Files of an earlier attempt are removed. If another process executes it, nothing happens.
        threads: Environment variables that set the OpenMP threads of the process.
        device: The index of the accelerator that it may use, modulo their number; by default all.
    """
    if run.folder.exists():
        try:
            with FileLock(run.folder / LOCK, timeout=SECONDS_TO_GO):
                rmtree(run.folder)
        except Timeout:
            return
    run.write()
    environment = {**os.environ, **threads, PARENT: str(os.getpid())}
    if device is not None and (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device % count]
    log = run.folder / LOG
    with log.open("w") as file:
        command = [sys.executable, "-m", "lightning_sparsegrad", *run.command]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)  # noqa: S603  # our own arguments
        _RUNNING.add(process)
        try:
            code = process.wait()
        finally:
            _RUNNING.discard(process)
    if code and not (run.folder / RESULT).exists() and not _was_stopped(code):
        write_result(run.folder, {"error": _reason(code, log)})


_RUNNING: set[subprocess.Popen[bytes]] = set()


def _was_stopped(code: int) -> bool:
    """Whether a process ended because its study was stopped."""
    return code in {*STATUSES.values(), *(-signum for signum in STATUSES)}


def _reason(code: int, log: Path) -> str:
    """Return why a process ended: the signal that killed it, or the last line of its log."""
    if code < 0:
        return f"The process was killed by signal {-code} ({signal.strsignal(-code)})."
    lines = log.read_text(errors="replace")[-_TAIL:].strip().splitlines()
    last = lines[-1].removeprefix("error: ").replace(HINT, "").strip() if lines else ""
    return last or f"The process ended with status {code}."
