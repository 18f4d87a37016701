"""Facts that strategies state in other ways than ours: they count, or an error says why they do not."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sparsegrad import (
    Chain,
    ConfigurationError,
    GradDrop,
    GradientEngine,
    Gradients,
    GradientTransform,
    Identity,
    LayerGradDrop,
    NamedParameters,
    Window,
)
from tests.cases import cases
from tests.engine.phases import LargestSeen
from tests.engine.skipping import small, train, warmed_up
from tests.transforms.small import Small, apply, assert_same_bits, set_gradients, trained

NAMES = ["head.bias", "norm.weight"]


class Stated(GradientTransform):
    """Drops the given names and reads the given groups together."""

    def __init__(self, dropped: Any = frozenset(), reads: Any = ()) -> None:
        self.to_drop, self.reads = dropped, reads

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def dropped(self, window: Window) -> frozenset[str]:
        names: frozenset[str] = self.to_drop
        return names

    def reads_together(self) -> Iterable[frozenset[str]]:
        groups: Iterable[frozenset[str]] = self.reads
        return groups

    def apply_(self, gradients: Gradients, window: Window) -> None:
        for gradient in gradients.values():
            gradient.mul_(0.5)


@cases("kind", [set, list, tuple, dict.fromkeys])
def test_names_come_in_any_collection(kind: Callable[[list[str]], Any]):
    for transform in (Stated(kind(NAMES)), Chain([LayerGradDrop(0.5), Stated(kind(NAMES))])):
        model = Small()
        engine = warmed_up(model, transform)
        with engine.window(1):
            model(torch.tensor([[1, 2]])).sum().backward()
            engine.apply_()
        assert trained(model).isdisjoint(NAMES)


@cases("reads", [[NAMES], [set(NAMES)], [tuple(NAMES)]], ids=["list", "set", "tuple"])
def test_groups_come_in_any_collection(reads: Any):
    assert_same_bits(
        *(train(small(), Chain([Stated(reads=reads), Stated(NAMES)]), skip=skip) for skip in (True, False))
    )


@cases(
    ("transform", "message"),
    [
        (Stated("head.bias"), r"`Stated\(\)` should drop a set of names. Found `'head.bias'`"),
        (Stated(None), r"`Stated\(\)` should drop a set of names. Found `None`"),
        (Stated({"head.bais"}), r"should drop parameters of the model, by the first of their names. Found `head.bais`"),
        (Chain([Stated(reads=NAMES), Stated(NAMES)]), r"read together groups of tensors. Found `'head.bias'`"),
    ],
)
def test_what_is_no_set_of_names_is_refused(transform: GradientTransform, message: str):
    model = Small()
    with pytest.raises(ConfigurationError, match=message):
        warmed_up(model, transform)


class Again(Stated):
    def apply_(self, gradients: Gradients, window: Window) -> None:
        super().apply_(gradients, window)


class Typo(Identity):
    phases = frozenset({"updates"})  # type: ignore[arg-type]


class OneName(Identity):
    phases = "update"  # type: ignore[assignment]


class NoUpdate(Identity):
    def after_step_(self, weights: Mapping[str, Tensor], window: Window, happened: Tensor) -> None:
        raise AssertionError


class NoCalibration(Identity):
    def calibrates(self, window: Window) -> bool:
        raise AssertionError


class NoLearning(Identity):
    def commit_(self, names: frozenset[str], happened: Tensor) -> None:
        raise AssertionError


@cases(
    ("transform", "message"),
    [
        (Again(NAMES), "`Again` should state `dropped` again, .* Found it stated by `Stated` alone"),
        (Typo(), r"`Typo\(\)` should act in phases of 'calibration', 'gradient', 'update'. Found .*'updates'"),
        (OneName(), r"should act in phases of .* Found `phases = 'update'`"),
        (NoUpdate(), r"`NoUpdate\(\)` should state the phase 'update', in which `after_step_` is called"),
        (NoCalibration(), r"should state the phase 'calibration', in which `calibrates` is called"),
        (NoLearning(), r"should state `learns = True`, or `commit_` is never called. Found `learns = False`"),
    ],
)
def test_what_would_never_be_called_is_refused(transform: GradientTransform, message: str):
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(Small(), Chain([GradDrop(0.5), transform]))


@cases("dropping", [LayerGradDrop(0.5), GradDrop(0.5, granularity="tensor")], ids=repr)
def test_nothing_is_learnt_of_what_is_dropped_behind_whether_or_not_it_is_computed(dropping: GradientTransform):
    chain = Chain([LargestSeen(), dropping])
    assert_same_bits(*(train(small(), chain, skip=skip, steps=12) for skip in (True, False)))


def test_a_strategy_that_is_gone_lends_its_draw_to_no_other():
    class Passing(Identity):
        def apply_(self, gradients: Gradients, window: Window) -> None:
            for name in NAMES:
                gradients.lose(window.dropped_by(Stated({name})), by=self)

    model = Small()
    engine = GradientEngine(model, Passing())
    set_gradients(model, 0)
    apply(engine, 0)
    assert trained(model).isdisjoint(NAMES)
