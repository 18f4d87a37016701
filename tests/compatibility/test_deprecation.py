"""Deprecated names that a strategy uses are listed once per engine, with their replacements."""

import warnings
from collections.abc import Callable

import pytest

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientEngine,
    Gradients,
    GradientTransform,
    LayerGradDrop,
    NamedParameters,
    Window,
)
from tests.cases import cases
from tests.compatibility.loop import STRATEGIES
from tests.compatibility.model import Tower
from tests.compatibility.strategies import EverySecondStep, RandomBlocks, TalliedLayerGradDrop

OLD = ("`skippable`", "`handles_shards`", "`gradients.drop`")
USES: dict[str, tuple[Callable[[], GradientTransform], type[GradientTransform], set[str]]] = {
    "own": (RandomBlocks, RandomBlocks, set(OLD)),
    "own, in a chain": (lambda: Chain([RandomBlocks(), ComponentNormClip(0.5)]), RandomBlocks, set(OLD)),
    "tallied": (lambda: TalliedLayerGradDrop(0.5), TalliedLayerGradDrop, {"`skippable`", "`handles_shards`"}),
    "wrapper": (lambda: EverySecondStep(LayerGradDrop(0.5)), EverySecondStep, {"`skippable`"}),
}


pytestmark = pytest.mark.filterwarnings("always::DeprecationWarning")


@cases("case", USES)
def test_one_warning_per_engine_names_what_is_used_and_what_takes_its_place(case: str) -> None:
    make, kind, uses = USES[case]
    for _ in range(2):
        (message,) = _deprecations(make())
        assert f"`{kind.__name__}`" in message
        assert {name for name in OLD if name in message} == uses
        assert "`dropped`" in message
        assert ("`on_shards`" in message) == ("`handles_shards`" in uses)
        assert "0.3" in message


@cases("name", ["watched", "head only at first", "weights clip", "unitwise clip"])
def test_a_strategy_that_uses_none_of_it_gets_no_warning(name: str) -> None:
    assert not _deprecations(STRATEGIES[name]())


@cases("transform", [GradDrop(0.5), LayerGradDrop(0.5), Chain([LayerGradDrop(0.5)])], ids=repr)
def test_the_strategies_of_the_library_get_no_warning(transform: GradientTransform) -> None:
    assert not _deprecations(transform)


def _deprecations(transform: GradientTransform) -> list[str]:
    """Return the messages that a few windows of an engine give."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Tower()
        engine = GradientEngine(model, transform, total_steps=4)
        for step in range(4):
            with engine.window(step):
                model(step).backward()
                engine.apply_()
            model.zero_grad()
    return [str(each.message) for each in caught if issubclass(each.category, DeprecationWarning)]


class DropsSmall(GradientTransform):
    """Drops the smallest gradient, which only `apply_` can know."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        gradients.drop([min(gradients, key=lambda name: float(gradients[name].norm()))])


def test_the_warning_says_of_each_class_what_it_uses() -> None:
    (message,) = _deprecations(Chain([TalliedLayerGradDrop(0.5), EverySecondStep(DropsSmall())]))
    tallied, wrapper, small = message.split("; ")
    assert tallied.startswith(
        "`TalliedLayerGradDrop` should state `dropped` and `reads_together` in place of `skippable`"
    )
    assert "`on_shards` in place of `handles_shards`" in tallied
    assert wrapper == "`EverySecondStep` should state `dropped` and `reads_together` in place of `skippable`"
    assert small.startswith("`DropsSmall` should state `dropped` in place of `gradients.drop` (`gradients.lose` if")


def test_the_warning_points_at_who_applies(recwarn: pytest.WarningsRecorder) -> None:
    model = Tower()
    engine = GradientEngine(model, RandomBlocks())
    with engine.window(0):
        model(0).backward()
        engine.apply_()
    assert [each.filename for each in recwarn if each.category is DeprecationWarning] == [__file__]
