"""A short soak finds nothing; and it finds what is broken on purpose."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sparsegrad import Chain, ValueClip
from lightning_sparsegrad.engine._skipping import WorkSkipper
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.loops._lightning_adapter import LightningAdapter
from lightning_sparsegrad.transforms.base import Gradients, Window
from lightning_sparsegrad.transforms.clips import value_clip
from lightning_sparsegrad.transforms.clips.adaptive_norm_clip import AdaptiveNormClip
from lightning_sparsegrad.transforms.clips.component_clip import ComponentClip
from lightning_sparsegrad.transforms.masks import _entries
from lightning_sparsegrad.transforms.masks.fixed_mask import FixedMask
from lightning_sparsegrad.transforms.masks.grad_drop import GradDrop
from lightning_sparsegrad.transforms.masks.mask import Mask
from tests.cases import cases
from tests.soak import chains
from tests.soak.chains import DRAWS, OTHERS
from tests.soak.configurations import draw_configuration
from tests.soak.memory import Memory
from tests.soak.soak import Summary, check_training, soak
from tests.transforms.golden import GOLDEN
from tests.transforms.small import on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)


@pytest.mark.parametrize("count", [12, pytest.param(36, marks=pytest.mark.long)])
def test_a_short_soak_finds_nothing(count: int):
    summary = soak(0, range(count), say=print)
    assert summary.failures == []
    assert summary.configurations == count
    assert summary.fits == count / 4
    assert min(summary.windows, summary.stops, summary.overflows, summary.comparisons) > 0


def test_a_configuration_comes_again_by_its_seed_and_index():
    assert str(draw_configuration(3, 7)) == str(draw_configuration(3, 7))
    assert draw_configuration(3, 7).plans == draw_configuration(3, 7).plans
    assert str(draw_configuration(3, 7)) != str(draw_configuration(4, 7))


def test_a_strategy_that_the_soak_does_not_know_is_drawn_as_its_golden_rows_have_it(monkeypatch: pytest.MonkeyPatch):
    assert {type(row.transform) for row in GOLDEN} <= {*DRAWS, *(type(row.transform) for row in OTHERS), Chain}
    monkeypatch.setattr(chains, "OTHERS", [row for row in GOLDEN if isinstance(row.transform, ValueClip)])
    summary, caught = Summary(0), 0
    for index in range(12):
        if any(leaf.reports is None for leaf in draw_configuration(0, index).drawn.leaves()):
            check_training(index, summary)
            caught += 1
    assert caught > 1


# ---------------------------------------------------------------- what is broken on purpose
def _key_of_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Mask, window: Window) -> tuple[str | int, ...]:
        return key(self, Window(window.step + 1, window.epoch, window.total_steps, window.seed))

    key = Mask.key
    monkeypatch.setattr(GradDrop, "key", broken)


def _clip_without_loss_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ComponentClip, gradients: Gradients, window: Window) -> None:
        gradients.loss_scale, scale = None, gradients.loss_scale
        apply_(self, gradients, window)
        gradients.loss_scale = scale

    apply_ = ComponentClip.apply_
    monkeypatch.setattr(ComponentClip, "apply_", broken)


def _hidden_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tensors: list[Tensor], max_value: float, *, loss_scale: Tensor | None = None) -> Tensor:
        bound = max_value * (1.0 if loss_scale is None else float(loss_scale))
        for tensor in tensors:
            tensor.clamp_(-bound, bound)
        return torch.zeros((), dtype=torch.int64)

    monkeypatch.setattr(value_clip, "clip_values_", broken)


def _drawn_from_the_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tensors: list[Tensor], keys: list[int], rates: list[float], **_: Any) -> None:
        for tensor, rate in zip(tensors, rates, strict=True):
            tensor.mul_(torch.rand_like(tensor) >= rate)

    monkeypatch.setattr(_entries, "mask_entries_", broken)


def _zeros_instead_of_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Gradients, names: Any, by: object) -> None:
        for name in names:
            self.skipped.pop(name, None)
            if name in self:
                self[name].mul_(0)

    monkeypatch.setattr(Gradients, "lose", broken)


def _no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkSkipper, "stop", lambda self: self._skipped)


def _forgotten_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GradientEngine.load_state_dict
    monkeypatch.setattr(
        GradientEngine, "load_state_dict", lambda self, state: whole(self, {**state, "seed": state["seed"] + 1})
    )


def _unread_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LightningAdapter, "load", lambda self, checkpoint: None)


def _lessons_that_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdaptiveNormClip, "load_state_dict", lambda self, state: None)


def _lessons_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: AdaptiveNormClip) -> None:
        self.commit_(self._parameters_seen, torch.ones((), dtype=torch.bool))
        forget(self)

    forget = AdaptiveNormClip.forget_
    monkeypatch.setattr(AdaptiveNormClip, "forget_", broken)


def _lessons_learnt_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: AdaptiveNormClip, names: frozenset[str], happened: Tensor) -> None:
        norms = self._norms_seen
        commit(self, names, happened)
        self._norms_seen = norms
        commit(self, names, happened)

    commit = AdaptiveNormClip.commit_
    monkeypatch.setattr(AdaptiveNormClip, "commit_", broken)


def _nothing_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FixedMask, "after_step_", lambda self, weights, window, happened: None)


BROKEN = [
    _clip_without_loss_scale,
]
BROKEN_RARELY = [
    _key_of_the_next_step,
    _forgotten_seed,
    _hidden_overflow,
    _drawn_from_the_global_generator,
    _zeros_instead_of_no_gradient,
    _no_way_back,
    _unread_checkpoint,
    _lessons_that_are_lost,
    _lessons_without_a_step,
    _lessons_learnt_twice,
    _nothing_restored,
]


@pytest.mark.parametrize(
    "break_",
    [*BROKEN, *(pytest.param(each, marks=pytest.mark.long) for each in BROKEN_RARELY)],
    ids=lambda break_: break_.__name__.strip("_"),
)
def test_what_is_broken_is_found(break_: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch):
    break_(monkeypatch)
    lines: list[str] = []
    summary = soak(0, range(60), most_failures=1, say=lines.append)
    assert summary.failures  # of one configuration, whose training and fit may fail both
    assert lines == [f"FAILED {failure}" for failure in summary.failures]
    assert all(line.startswith(f"FAILED --seed 0 --only {summary.configurations - 1}: ") for line in lines)


@pytest.mark.long
def test_engines_that_pile_up_are_found():
    memory = Memory()
    assert memory.piled_up() is None
    configuration = draw_configuration(0, 0)
    kept = GradientEngine(configuration.model.build(), configuration.drawn.transform, **configuration.engine)
    assert memory.piled_up() == "1 engines are alive although no training is"
    del kept
    assert memory.piled_up() is None


@pytest.mark.long
@cases(
    ("growth", "blocks", "caught"),
    [(0, 0, False), (0.5, 100, False), (2, 0, True), (0, 2000, True), (-2, -2000, False)],
)
def test_memory_that_grows_is_found(growth: float, blocks: int, caught: bool):
    memory = Memory()
    memory.samples = [
        (windows, 400 + growth * windows / 1000 + windows % 3, 10**6 + blocks * windows // 1000)
        for windows in range(0, 10_000, 100)
    ]
    assert (memory.failure() is not None) == caught


def test_a_short_soak_tells_nothing_about_memory():
    memory = Memory()
    memory.samples = [(0, 1.0, 1), (10, 100.0, 1000), (20, 200.0, 2000), (30, 300.0, 3000)]
    assert memory.slopes is None
    assert memory.failure() is None
