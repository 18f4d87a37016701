"""The benchmarks measure what they claim. No time is asserted, since it depends on the machine."""

import json
from math import inf, nan
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.__main__ import main
from benchmarks.arms import CHANGE, PLAIN, STEP, Task, make_arms
from benchmarks.baselines import child_tuning_, clip_as_authors_, clip_each_, drop_by_bernoulli_
from benchmarks.growth import PER_PARAMETER, exponent
from benchmarks.host import READ
from benchmarks.learning import GROWTH, LOOSE, SKIP
from benchmarks.learning import make_arms as make_learning_arms
from benchmarks.learning import make_strategies as make_learning_strategies
from benchmarks.lines import draw_growth
from benchmarks.measure import Arm, Clock, interleave
from benchmarks.memory import held_to
from benchmarks.models import SMALL, Size, build_model, find_thresholds, gradients_of, make_batch, run_backward
from benchmarks.options import Options, parse_options
from benchmarks.output import publish
from benchmarks.peak import peak_allocated
from benchmarks.peers import find_peers
from benchmarks.plots import draw_bars
from benchmarks.ratios import Ratio, Summary, divide
from benchmarks.report import Report, Row, format_number
from benchmarks.strategies import UNFREEZING, from_overlays, make_strategies
from lightning_sparsegrad import ComponentNormClip, GradientEngine
from tests.strategies import STRATEGIES

CPU = torch.device("cpu")
TINY = Size(hidden=16, layers=2, heads=2, intermediate=24, vocabulary=60, examples=2, tokens=6)
MACHINE = {"processor": "a processor", "threads": 2, "torch": "2"}


@pytest.fixture
def model() -> nn.Module:
    model = build_model(TINY, CPU)
    run_backward(model, make_batch(TINY, CPU))
    return model


def exact(value: float) -> Summary:
    return Summary.of([value])


class TestBaselines:
    def test_bernoulli_drops_the_rate_and_keeps_the_rest(self) -> None:
        torch.manual_seed(0)
        gradient = torch.full((100_000,), 3.0)
        drop_by_bernoulli_([gradient], 0.3)
        assert set(gradient.tolist()) == {0.0, 3.0}
        assert float((gradient == 0).float().mean()) == pytest.approx(0.3, abs=0.01)

    def test_child_tuning_keeps_the_expectation(self) -> None:
        torch.manual_seed(0)
        gradient = torch.full((100_000,), 3.0)
        child_tuning_([gradient], 0.25)
        assert set(gradient.tolist()) == {0.0, 12.0}
        assert float((gradient == 0).float().mean()) == pytest.approx(0.75, abs=0.01)

    @pytest.mark.parametrize("clip", ["authors", "each"])
    def test_loops_clip_as_component_norm_clip_does(self, model: nn.Module, clip: str) -> None:
        max_norm = find_thresholds(gradients_of(model)).tenth
        before = [gradient.clone() for gradient in gradients_of(model)]
        if clip == "authors":
            clip_as_authors_(model, max_norm)
        else:
            clip_each_(model.parameters(), max_norm)
        theirs = [gradient.clone() for gradient in gradients_of(model)]
        engine = GradientEngine(model, ComponentNormClip(max_norm=max_norm, components="tensor"))
        with engine.window(0):
            put_back(model, before)
            engine.apply_()
        changed = [not torch.equal(after, old) for after, old in zip(theirs, before, strict=True)]
        assert 0 < sum(changed) < len(changed)
        for their, our in zip(theirs, gradients_of(model), strict=True):
            torch.testing.assert_close(their, our)

    def test_authors_collect_nine_numbers_from_before_the_clip(self, model: nn.Module) -> None:
        norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
        collected = clip_as_authors_(model, 1e-6)
        assert {name: values["gradient_norm"] for name, values in collected.items()} == pytest.approx(norms)
        assert {len(values) for values in collected.values()} == {9}


def put_back(model: nn.Module, gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()


class TestMeasure:
    def test_every_repeat_runs_every_arm_in_an_order_of_its_own(self) -> None:
        order: list[str] = []

        def arm(name: str, rounds: int = 1) -> Arm:
            def run(clock: Clock) -> None:
                order.append(name)
                with clock.section("outer"):
                    with clock.section("inner"):
                        pass
                    with clock.section("inner"):
                        pass

            return Arm(name, "ours", run, rounds)

        arms = [*map(arm, "abcd"), arm("often", 3)]
        samples = interleave(arms, repeats=4, device=CPU, warmups=2)
        assert list(samples) == ["a", "b", "c", "d", "often"]
        assert all(sorted(sections) == ["inner", "outer"] for sections in samples.values())
        assert {len(values) for sections in samples.values() for values in sections.values()} == {4}
        assert all(o >= i for s in samples.values() for o, i in zip(s["outer"], s["inner"], strict=True))
        timed = order[2 * len(arms) :]
        repeats = [timed[i : i + 7] for i in range(0, len(timed), 7)]
        assert [sorted(repeat) for repeat in repeats] == [["a", "b", "c", "d", "often", "often", "often"]] * 4
        assert len(set(map(tuple, repeats))) > 1

    def test_peak_is_the_largest_sum_of_what_lives_at_once(self) -> None:
        def call() -> None:
            for _ in range(3):
                first = torch.ones(1000)
                del first
            second, third = torch.ones(500), torch.ones(750)
            del second, third

        assert 4 * 1250 <= peak_allocated(call, CPU) <= 4 * 1250 + 512

    def test_thresholds_clip_all_or_a_tenth(self, model: nn.Module) -> None:
        gradients = gradients_of(model)
        thresholds = find_thresholds(gradients)
        norms = torch.stack([gradient.norm() for gradient in gradients])
        assert bool((norms[norms > 0] > thresholds.all).all())
        assert float((norms > thresholds.tenth).float().mean()) == pytest.approx(0.1, abs=0.05)
        over = [gradient.numel() for gradient, norm in zip(gradients, norms, strict=True) if norm > thresholds.few]
        assert 0 < sum(over) <= 0.1 * sum(gradient.numel() for gradient in gradients)


class TestRatios:
    def test_divides_repeat_by_repeat(self) -> None:
        ratio = divide("a / b", [1.0, 30.0, 2.0], [2.0, 10.0, 1.0], at_most=2.0)
        assert ratio.summary == Summary(value=2.0, lower=1.25, upper=2.5, count=3)
        assert divide("a / b", [1.0, 30.0, 2.0], [2.0, 10.0, 1.0], averaged=True).summary.value == pytest.approx(
            5.5 / 3
        )

    @pytest.mark.parametrize(
        ("value", "at_most", "verdict"),
        [(2.0, 2.0, "reached"), (2.1, 2.0, "missed"), (nan, 2.0, "missed"), (inf, 2.0, "missed"), (9.0, None, "")],
    )
    def test_verdict(self, value: float, at_most: float | None, verdict: str) -> None:
        assert Ratio("a / b", exact(value), at_most).verdict == verdict

    @pytest.mark.parametrize(("power", "verdict"), [(1.0, "reached"), (1.3, "missed")])
    def test_growth_is_linear_or_not(self, power: float, verdict: str) -> None:
        points = [(n, exact(n ** (power - 1))) for n in (1_000_000, 10_000_000, 100_000_000)]
        ratio = exponent("mask", points)
        assert ratio.summary.value == pytest.approx(power)
        assert ratio.verdict == verdict

    @pytest.mark.parametrize(("largest", "verdict"), [(50, "reached"), (29, "missed"), (1, "missed")])
    def test_memory_is_held_to_the_largest_tensor_or_to_a_share(self, largest: int, verdict: str) -> None:
        assert held_to("mask", 30, 1000, largest).verdict == verdict
        assert held_to("mask", 20, 1000, largest).verdict == "reached"

    @pytest.mark.parametrize(
        ("number", "text"), [(0, "0"), (0.01234, "0.0123"), (12.34, "12.3"), (1234.4, "1234"), (-150.2, "-150")]
    )
    def test_numbers_have_three_digits(self, number: float, text: str) -> None:
        assert format_number(number) == text


def made_up(benchmark: str) -> Report:
    rows = [
        Row("plain", "torch", {"step [ms]": Summary.of([1.0, 2.0, 3.0])}),
        Row("mask", "ours", {"step [ms]": exact(2.0), "change [ms]": exact(0.0)}),
        Row("other", "naive", {"step [ms]": exact(200.0), "change [ms]": exact(5.0)}),
    ]
    ratios = [Ratio("mask / plain", exact(1.0), at_most=0.5, aim=0.25)]
    series = {PER_PARAMETER: {"mask": [(10, 1.0), (100, 2.0)]}, "us per tensor": {"mask, equal sizes": [(10, 3.0)]}}
    return Report(benchmark, MACHINE, {"series": series}, rows, ratios, ["a note"])


class TestReport:
    @pytest.mark.parametrize("draw", [draw_bars, draw_growth])
    def test_writes_json_and_plot(self, tmp_path: Path, draw: object) -> None:
        folder = tmp_path / "a" / "b"
        assert callable(draw)
        publish(made_up("trial"), Options(quick=False, repeats=None, output=folder, device=CPU), draw)
        read = json.loads((folder / "trial.json").read_text())
        assert read["machine"] == MACHINE
        assert read["rows"][0]["values"]["step [ms]"] == {"value": 2.0, "lower": 1.5, "upper": 2.5, "count": 3}
        assert read["ratios"][0] | {"summary": None} == {
            "name": "mask / plain",
            "summary": None,
            "at_most": 0.5,
            "aim": 0.25,
            "unit": "",
            "verdict": "missed",
        }
        assert (folder / "trial.png").read_bytes().startswith(b"\x89PNG")

    def test_table_names_every_arm_column_and_target(self) -> None:
        console = Console(width=200)
        with console.capture() as captured:
            made_up("trial").show(console)
        for text in ("plain", "step [ms]", "2 (1.5-2.5)", "change [ms]", "<= 0.5", "<= 0.25", "missed", "a note"):
            assert text in captured.get()


class TestArms:
    def test_every_arm_times_its_step_and_all_but_plain_the_change(self, model: nn.Module) -> None:
        task, thresholds = Task.of(model, make_batch(TINY, CPU)), find_thresholds(gradients_of(model))
        before = [parameter.clone() for parameter in model.parameters()]
        arms, _ = make_arms(task, thresholds, fused=False, draws=2)
        names = [arm.name for arm in arms]
        assert len(set(names)) == len(names)
        assert set(make_strategies(thresholds, fused=False)) - set(names) == {UNFREEZING}
        samples = interleave(arms, repeats=1, device=CPU)
        assert {name for name, sections in samples.items() if CHANGE not in sections} == {PLAIN}
        assert all(sections[STEP][0] > 0 for sections in samples.values())
        after = list(model.parameters())
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))  # every arm sees the same
        assert all(parameter.requires_grad for parameter in after)

    @pytest.mark.parametrize("growth", GROWTH.values(), ids=GROWTH.keys())
    def test_clips_that_learn_scale_everything_or_nothing(self, model: nn.Module, growth: float) -> None:
        saved = [gradient.clone() for gradient in gradients_of(model)]
        max_norm = find_thresholds(saved).all if growth > 1 else LOOSE
        for name, strategy in make_learning_strategies(max_norm).items():
            put_back(model, saved)
            (arm,) = make_learning_arms(model, {name: strategy}, growth)
            for step in range(6):
                arm.run(Clock(CPU))
                ordinary = torch._foreach_mul(saved, growth**step)
            changed = [
                not torch.equal(gradient, other)
                for gradient, other in zip(gradients_of(model), ordinary, strict=True)
                if other.any()
            ]
            assert set(changed) == {growth > 1 and name != SKIP}, name

    def test_a_strategy_without_a_line_is_measured_as_its_overlays_have_it(self) -> None:
        others = from_overlays({strategy.__name__ for strategy in STRATEGIES} - {"GradDrop"})
        assert {name: str(transform) for name, transform in others.items()} == {
            "GradDrop, as in grad_drop.yaml": "GradDrop(rate=0.2)",
            "GradDrop, as in graddrop_epoch.yaml": "GradDrop(rate=0.2)",
            "GradDrop, as in sparse_unfreezing.yaml": "GradDrop(rate=TopDown(1, 0, width=0.5))",
        }
        assert from_overlays({strategy.__name__ for strategy in STRATEGIES}) == {}

    def test_peers_clip_what_is_large_or_are_not_installed(self, model: nn.Module) -> None:
        for peer in find_peers().values():
            if peer is not None:
                put_back(model, [torch.full_like(parameter, 1e3) for parameter in model.parameters()])
                peer(list(model.parameters()))
                assert all(float(gradient.abs().max()) < 1e3 for gradient in gradients_of(model))


class TestCommand:
    @pytest.mark.long
    def test_quick_host_times_opening_and_applying_every_strategy(self, tmp_path: Path) -> None:
        main(["--quick", "--only", "host", "--device", "cpu", "--output", str(tmp_path)])
        read = json.loads((tmp_path / "host.json").read_text())
        arms = ["Identity", *make_strategies(find_thresholds([torch.ones(1)]), fused=False)]
        assert [row["arm"] for row in read["rows"]] == [READ, *arms]
        assert all(set(row["values"]) == {"open [ms]", "apply_ [ms]"} for row in read["rows"][1:])
        assert [ratio["name"] for ratio in read["ratios"]] == [f"{arm} / {READ}" for arm in arms]
        assert read["settings"]["tensors"] == 393
        assert "vector instructions" in read["machine"]

    def test_quick_memory_writes_its_numbers(self, tmp_path: Path) -> None:
        main(["--quick", "--only", "memory", "--device", "cpu", "--output", str(tmp_path)])
        read = json.loads((tmp_path / "memory.json").read_text())
        arms = [row["arm"] for row in read["rows"]]
        assert arms == ["torch clip_grad_norm_", *make_strategies(find_thresholds([torch.ones(1)]), fused=False)]
        assert len(read["ratios"]) == len(arms) - 1
        assert read["settings"]["largest tensor bytes"] == 4 * SMALL.vocabulary * SMALL.hidden
        assert {path.name for path in tmp_path.iterdir()} == {"memory.json", "memory.png"}

    def test_refuses_no_repeats(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse_options("text", ["--repeats", "0"])
        assert "--repeats" in capsys.readouterr().err
        assert parse_options("text", ["--repeats", "7", "--quick"]).rounds(full=1, quick=2) == 7
        assert parse_options("text", ["--quick"]).rounds(full=1, quick=2) == 2
