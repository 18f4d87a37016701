"""Progress lines of a study without a terminal: runs that have ended, the last result, the time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from lightning_sparsegrad.callbacks._lines import is_terminal, of_total, time_left, write_line
from lightning_sparsegrad.studies._run_results import run_result
from lightning_sparsegrad.studies._runs import Run
from lightning_sparsegrad.studies._study import Study

_INTERVAL, _FIRST = 60.0, 10.0  # seconds, as for a fit: see `ProgressLines`
_TICK = 1.0


class StudyLines:
    """Writer of a progress line to stderr every minute while a study runs, if stdout or stderr is not a terminal.

    ```
    run 12/40 (30%), last drop-seed1: val/accuracy 0.8812, 1:02:10 left
    ```

    The time left is estimated from the runs that have ended in this process, once there are as many as run at a time.

    Args:
        study: The study.
        done: The number of runs that had ended before.
        total: The number of all runs.
        jobs: The number of runs at a time.
    """

    def __init__(self, study: Study, *, done: int, total: int, jobs: int) -> None:
        self._study, self._before, self._total, self._jobs = study, done, total, jobs
        self._clock = monotonic
        self._start = self._last = self._clock()
        self._due = self._start + _FIRST
        self._ended = 0
        self._words: str | None = None

    def ended(self, run: Run) -> None:
        """Record that the process of a run has ended."""
        self._ended, self._last = self._ended + 1, self._clock()
        if (result := run.result) is None:
            words = "has not ended"
        elif "error" in result:
            words = "failed"
        elif "diverged" in result:
            words = "diverged"
        else:
            words = f"{self._study.metric} {run_result(run, self._study).value:.4g}"
        self._words = f"last {run.name}: {words}"

    def write(self) -> None:
        """Write a line if one is due."""
        now = self._clock()
        if now < self._due:
            return
        self._due = now + _INTERVAL
        done, left = self._before + self._ended, None
        if self._ended >= self._jobs:
            each = (self._last - self._start) / self._ended
            left = max(0.0, (self._total - done) * each - (now - self._last))
        write_line([f"run {of_total(done, self._total)}", self._words, time_left(left)])

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write lines when they are due, from a thread, since a run may take longer than an interval."""
        if is_terminal("stdout", "stderr"):
            yield
            return
        stop = Event()

        def write() -> None:
            while not stop.wait(_TICK):
                self.write()

        thread = Thread(target=write, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
