"""The run of the GPU benchmark: it keeps to its time, writes as it goes, and needs no more than it says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
import torch

from benchmarks.arms import Task
from benchmarks.gpu.__main__ import Item, check_law, main, make_plan, run_plan
from benchmarks.gpu.costs import CHAIN, count_launches, make_arms
from benchmarks.gpu.journal import Journal, Result
from benchmarks.gpu.laws import LAWS, UnsupportedError
from benchmarks.gpu.shapes import BERT, FULL, LLAMA, MIXED, TRUE, XLM_R, build
from benchmarks.measure import Arm, Clock
from benchmarks.models import find_thresholds, gradients_of, run_backward
from tests.cases import cases

CPU = torch.device("cpu")
ABSENT = ("jsonargparse", "datasets", "pandas", "pyarrow")  # of which a machine with a GPU may have none


def read(journal: Journal) -> list[dict[str, object]]:
    return [json.loads(line) for line in journal.lines.read_text().splitlines()]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "new", {"device": "cpu", "torch": "2"})


class TestPlan:
    def test_every_law_and_every_shape_are_in_it_laws_first(self) -> None:
        names = [item.name for item in make_plan(torch.device("cuda"), quick=False)]
        assert names[: len(LAWS)] == list(LAWS)
        assert {name.partition(",")[0] for name in names[len(LAWS) :]} == {BERT.name, XLM_R.name, LLAMA.name}

    def test_what_has_come_before_an_error_is_kept_and_the_rest_is_done(
        self, journal: Journal, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def breaks() -> Iterator[Result]:
            yield Result("Cost", "first", {"step [ms]": 1.0})
            raise RuntimeError("out of memory")

        after = Item("after", lambda: iter([Result("Cost", "second", {"step [ms]": 2.0})]), 0)
        run_plan([Item("broken", breaks, 0), after], journal, monotonic() + 60)
        assert [line.get("name") for line in read(journal)[1:]] == ["first", "broken", "second"]
        assert journal.failures == ["broken"]
        assert "RuntimeError: out of memory" in journal.page.read_text()
        assert "out of memory" in capsys.readouterr().err

    def test_what_there_is_no_time_for_is_not_begun(self, journal: Journal) -> None:
        def never() -> Iterator[Result]:
            raise AssertionError

        short = Item("short", lambda: iter([Result("Cost", "short", {})]), 0)
        run_plan([Item("long", never, 100), short], journal, monotonic() + 50)
        assert [(line.get("section"), line.get("name")) for line in read(journal)[1:]] == [
            ("Left out for want of time", "long"),
            ("Cost", "short"),
        ]
        assert not journal.failures


@cases(
    "law, verdict, figures",
    [("holds", "holds", "3 masks"), ("breaks", "failed", "2 differ"), ("lacks", "unsupported", "no compiler")],
)
def test_a_law_says_how_it_does(law: str, verdict: str, figures: str) -> None:
    def check(device: torch.device) -> str:
        assert device == CPU
        if law == "lacks":
            raise UnsupportedError(figures)
        assert law != "breaks", figures
        return figures

    (result,) = check_law("a law", check, CPU)
    assert (result.values["verdict"], result.values["figures"].partition("\n")[0]) == (verdict, figures)


class TestJournal:
    def test_the_page_is_complete_after_each_result(self, journal: Journal) -> None:
        journal.add(Result("Cost", "plain", {"step [ms]": 10.0}))
        assert "| plain | 10 |" in journal.page.read_text()
        journal.add(Result("Laws", "masks", {"verdict": "holds"}))
        journal.add(Result("Cost", "mask | clip", {"step [ms]": 10.3, "/ plain": 1.03}))
        text = journal.page.read_text()
        assert (
            "|  | step [ms] | / plain |\n| --- | --- | --- |\n| plain | 10 |  |\n| mask \\| clip | 10.3 | 1.03 |"
            in text
        )
        assert text.index("## Cost") < text.index("## Laws")

    def test_two_runs_keep_their_files_apart(self, tmp_path: Path) -> None:
        first, second = (Journal(tmp_path, {"device": "cpu"}) for _ in range(2))
        assert first.lines != second.lines
        assert {path.name for path in tmp_path.iterdir()} == {first.lines.name, second.lines.name}


class TestCosts:
    def test_launches_are_those_beyond_a_plain_step(self) -> None:
        x = torch.ones(4)

        def arm(number: int) -> Arm:
            def run(clock: Clock) -> None:
                for _ in range(number):
                    x.add_(1)

            return Arm(str(number), "ours", run)

        assert count_launches(arm(5), arm(2), CPU) == 3

    def test_every_arm_leaves_gradients_of_its_own(self) -> None:
        model, batch = build(XLM_R, MIXED, CPU, quick=True)
        task = Task.of(model, batch)
        run_backward(model, batch)
        arms = {arm.name: arm for arm in make_arms(task, find_thresholds(gradients_of(model)))}
        norms = {}
        for name in ("plain", "GradDrop, eager", "ComponentNormClip, all clipped"):
            arms[name].run(Clock(CPU))
            norms[name] = float(torch.stack([gradient.norm() for gradient in gradients_of(model)]).norm())
        assert norms["ComponentNormClip, all clipped"] < norms["GradDrop, eager"] < norms["plain"]
        assert CHAIN in arms


@cases("precision, dtype", [(FULL, torch.float32), (MIXED, torch.float32), (TRUE, torch.bfloat16)])
def test_precision_is_that_of_the_gradients(precision: str, dtype: torch.dtype) -> None:
    model, batch = build(LLAMA, precision, CPU, quick=True)
    assert model(**batch).logits.dtype == (torch.float32 if precision == FULL else torch.bfloat16)
    run_backward(model, batch)
    assert {gradient.dtype for gradient in gradients_of(model)} == {dtype}


@pytest.mark.long
def test_everything_runs_without_what_reads_configs_and_data(tmp_path: Path) -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    arguments = ["gpu", "--device", "cpu", "--quick", "--output", str(tmp_path)]
    code = f"{blocked}; from benchmarks.gpu.__main__ import main; sys.exit(main({arguments[1:]}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (lines,) = tmp_path.glob("*.jsonl")
    results = [json.loads(line) for line in lines.read_text().splitlines()][1:]
    assert [result["name"] for result in results if result["section"] == "Laws"] == list(LAWS)
    costs = {result["section"] for result in results if result["section"].startswith("Cost")}
    assert len(costs) == 3
    assert not [result for result in results if result["section"] == "Errors"]


def test_a_machine_without_a_gpu_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path)])
    assert "Found `device = 'cuda'`" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
