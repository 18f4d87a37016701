"""Strategies as users wrote them for 0.1 do what they did, bit by bit."""

import pytest
import torch
from torch import nn

from lightning_sparsegrad import GradientEngine, Gradients, GradientTransform, NamedParameters, Window
from tests.cases import cases
from tests.compatibility import fits, loop
from tests.compatibility.model import Tower
from tests.compatibility.record import read
from tests.compatibility.strategies import WatchedLayerGradDrop

LOOPS, FITS = read("loops"), read("fits")
RECORDED_WITH = "2.13."  # of torch
VARIANTS = [(True, None, False), (True, 1024.0, True), (False, 1024.0, False), (False, None, True)]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*tensorboardX")


@pytest.mark.parametrize("name", loop.STRATEGIES)
@cases("where", loop.WHERE)
@pytest.mark.parametrize(  # all together, any two of the three in each combination
    "variants", [VARIANTS[:2], pytest.param(VARIANTS[2:], marks=pytest.mark.long)], ids=["skipping", "computing"]
)
def test_a_loop_comes_to_what_it_came_to(
    name: str, where: str, variants: list[tuple[bool, float | None, bool]]
) -> None:
    for skip, scale, resume in variants:
        actual = loop.run(name, where, skip_dropped=skip, loss_scale=scale, resume=resume)
        assert actual == LOOPS[f"{name}, {where}"], (skip, scale, resume)


@pytest.mark.parametrize("name", loop.STRATEGIES)
def test_a_fit_comes_to_what_it_came_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "")  # restored at the end, whatever the fit sets
    done, recorded = fits.fit(name, loop.STRATEGIES[name]()), dict(FITS[name])
    if not torch.__version__.startswith(RECORDED_WITH):  # how often a fit draws is torch's to change
        recorded["random"] = done["random"]
    assert done == recorded


def test_the_cases_can_tell_strategies_and_orders_apart() -> None:
    alone = [str(LOOPS[f"{name}, alone"]["gradients"]) for name in loop.STRATEGIES]
    assert len(set(alone)) == len(alone)
    for name in set(loop.STRATEGIES) - {"weights clip"}:  # which is in a chain with another clip
        before, behind = (LOOPS[f"{name}, {where} a joint clip"]["gradients"] for where in ("before", "behind"))
        assert before != behind, name


@pytest.mark.parametrize("name", ["own", "tallied", "every second step", "every second step, own"])
def test_what_a_strategy_says_it_drops_is_not_computed(name: str) -> None:
    computed = _computed(loop.built(name, "alone"))
    everything = len(list(Tower().parameters()))
    assert computed[0] == everything  # the first window shows what the loss depends on
    assert min(computed) < everything


@pytest.mark.parametrize("name", ["watched", "unitwise clip"])
def test_what_a_strategy_of_its_own_may_read_is_computed(name: str) -> None:
    assert set(_computed(loop.built(name, "alone"))) == {len(list(Tower().parameters()))}


class SaysAsItsBase(WatchedLayerGradDrop):
    """Answers for the base, which reads all that it drops."""

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
        return super().skippable(window, later)


class OwnNames(GradientTransform):
    """Has attributes of names that the library did not have in 0.1."""

    def __init__(self) -> None:
        self.factors = self.thresholds = self.scaled_components = self.dropped = 0  # type: ignore[assignment, method-assign, misc]

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self.dropped += 1  # type: ignore[assignment, operator]


def test_what_a_base_reads_is_computed_though_a_subclass_answers_for_it() -> None:
    assert set(_computed(SaysAsItsBase(0.5))) == {len(list(Tower().parameters()))}


def test_a_strategy_may_have_attributes_of_new_names() -> None:
    assert set(_computed(OwnNames())) == {len(list(Tower().parameters()))}


def _computed(transform: GradientTransform) -> list[int]:
    """Return the number of gradients that the backward passes of each window compute."""
    model: nn.Module = Tower()
    engine = GradientEngine(model, transform, total_steps=loop.WINDOWS, seed=loop.SEED)
    numbers: list[int] = []
    for step in range(loop.WINDOWS):
        with engine.window(step):
            model(step).backward()
            numbers.append(sum(parameter.grad is not None for parameter in model.parameters()))
            engine.apply_()
        model.zero_grad()
    return numbers
