"""The progress lines of a study without a terminal."""

import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from threading import Event

from lightning_sparsegrad.studies._runs import Run
from lightning_sparsegrad.studies._study import Study
from lightning_sparsegrad.studies._study_lines import StudyLines

STUDY = Study(base=[], arms={"plain": [], "drop": []}, metric="val/accuracy", seeds=4)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(folder: Path, seed: int, **result: object) -> Run:
    run = Run("drop", "", seed, {}, folder)
    run.folder.mkdir(parents=True)
    if result:
        (run.folder / "result.json").write_text(json.dumps(result))
    return run


def test_runs_the_last_result_and_the_time_left(tmp_path: Path) -> None:
    lines, clock = StudyLines(STUDY, done=3, total=8, jobs=2), Clock()
    lines._clock, lines._start, lines._due = clock, 0.0, 10.0

    def at(now: float) -> str:
        clock.now = now
        with redirect_stderr(StringIO()) as written:
            lines.write()
        assert isinstance(written, StringIO)
        return written.getvalue().replace("-" + name.rpartition("-")[2], "")

    name = "-"
    assert at(9) == ""
    assert at(11) == "run 3/8 (37%)\n"
    clock.now = 100
    run = ended(tmp_path, 1, metrics={"val/accuracy": 0.88125})
    lines.ended(run)
    name = run.name
    assert at(101) == "run 4/8 (50%), last drop-seed1: val/accuracy 0.8812\n"  # another may end at any moment
    assert at(160) == ""
    clock.now = 161
    run = ended(tmp_path, 2, error="ValueError: a bug")
    name = run.name
    lines.ended(run)
    # two of the missing runs took 161 s; three are left, some of which have run for a second
    assert at(162) == "run 5/8 (62%), last drop-seed2: failed, 0:04:00 left\n"
    for seed, result, words in ((3, {"diverged": "weights", "metrics": {}}, "diverged"), (4, {}, "has not ended")):
        run = ended(tmp_path, seed, **result)
        name = run.name
        lines.ended(run)
        assert f"last drop-seed{seed}: {words}, 0:0" in at(clock.now + 61)


def test_lines_are_written_while_runs_last() -> None:
    written = Event()

    class Log(StringIO):
        def write(self, text: str) -> int:
            written.set()
            return super().write(text)

    lines = StudyLines(STUDY, done=0, total=8, jobs=1)
    lines._due = 0.0
    with redirect_stderr(Log()) as log, lines.writing():
        assert written.wait(timeout=60)
    assert isinstance(log, Log)
    assert log.getvalue() == "run 0/8 (0%)\n"
