"""Skipping work changes nothing: gradients that are dropped whole are not computed, and the weights are the same."""

import warnings
from typing import Any

import pytest
from torch import nn

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    Identity,
    LayerGradDrop,
    TopDown,
    ValueClip,
)
from lightning_sparsegrad.transforms.base import Window, needless
from tests.cases import cases
from tests.engine.helpers import OPTIMIZERS, backward, loss_on, tokens_at
from tests.engine.skipping import (
    LAYERS,
    TENSOR_CLIP,
    TENSORS,
    computed,
    frozen,
    hugging_face,
    one_window,
    small,
    train,
    warmed_up,
)
from tests.tiny import tiny_bert, tiny_gpt2, tiny_t5
from tests.transforms.contract import every_row
from tests.transforms.golden import Golden
from tests.transforms.small import Small, assert_same_bits


# ---------------------------------------------------------------- the same weights
@every_row
@cases("tied", [False, True], ids=["untied", "tied"])
def test_every_strategy_trains_the_same_weights(row: Golden, tied: bool):
    skipped = train(small(tied=tied), row.transform, skip=True)
    assert_same_bits(skipped, train(small(tied=tied), row.transform, skip=False))


@cases("transform", [LAYERS, TENSORS, GradualUnfreezing(), HeadOnly()], ids=str)
@cases("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@cases("set_to_none", [True, False], ids=["to None", "to zero"])
def test_the_same_weights_with_accumulation_and_every_optimizer(transform, optimizer, set_to_none):
    weights = [
        train(small(), transform, skip=skip, optimizer=optimizer, accumulate=3, set_to_none=set_to_none)
        for skip in (True, False)
    ]
    assert_same_bits(*weights)


UNITS = GradDrop(0.5, granularity="component")
OTHERS = [UNITS, GradualUnfreezing(unfreeze_every=1), GradDrop(TopDown())]


@cases("build", [tiny_bert, tiny_gpt2, tiny_t5], ids=["BERT", "GPT-2", "T5"])
@pytest.mark.parametrize(
    "transform", [LAYERS, TENSORS, *(pytest.param(each, marks=pytest.mark.long) for each in OTHERS)], ids=str
)
def test_real_architectures_train_the_same_weights_with_dropout(build, transform):
    weights = [
        train(build(decoder_start_token_id=0).train(), transform, skip=skip, loss=hugging_face)
        for skip in (True, False)
    ]
    assert_same_bits(*weights)


@cases("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@cases("transform", [LAYERS, GradualUnfreezing(unfreeze_every=1), HeadOnly()], ids=str)
def test_the_same_weights_under_the_activation_checkpointing_of_hugging_face(reentrant, transform):
    def build() -> nn.Module:
        model: Any = tiny_bert().train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        return model  # type: ignore[no-any-return]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inputs without a gradient, which the embeddings have under `skip`
        weights = [train(build(), transform, skip=skip, loss=hugging_face) for skip in (True, False)]
    assert_same_bits(*weights)


# ---------------------------------------------------------------- less work
def test_what_is_dropped_is_not_computed():
    model = Small()
    assert computed(model, HeadOnly()) == {"head.weight", "head.bias", "temperature"}
    for transform in (LAYERS, TENSORS, Chain([TENSOR_CLIP, ValueClip(1.0), LAYERS, GradDrop(0.2)])):
        names = computed(model, transform)
        assert 0 < len(names) < len(list(model.parameters())), transform
        for parameter in model.parameters():
            parameter.grad = None


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_backward_ends_above_the_lowest_tensor_that_trains():
    model, visited = Small(), []
    for index, block in enumerate(model.blocks):
        block.register_full_backward_hook(lambda *_, index=index: visited.append(index))
    computed(model, GradualUnfreezing(unfreeze_every=1), step=1)  # the head and the last block
    assert visited == [1, 0, 1]  # the first window, then this one


@cases(
    ("transform", "skips"),
    [
        (Chain([GlobalNormClip(1.0), LAYERS]), False),
        (Chain([LAYERS, GlobalNormClip(1.0)]), True),
        (Chain([ComponentNormClip(1.0, components="tensor"), LAYERS]), True),
        (Chain([ComponentNormClip(1.0, components="block"), LAYERS]), True),
        (Chain([ComponentNormClip(1.0, components={"*": "all"}), LAYERS]), False),
        (Chain([ComponentNormClip(1.0, components={"*": "all"}), TENSORS]), False),
        (Chain([Chain([GlobalNormClip(1.0)]), Chain([LAYERS])]), False),
        (Chain([Identity(), GradDrop(0.3), Chain([LAYERS])]), True),
    ],
    ids=str,
)
def test_what_is_read_together_with_what_is_kept_is_computed(transform: GradientTransform, skips: bool):
    assert (len(computed(Small(), transform)) < len(list(Small().parameters()))) == skips


def test_a_component_is_spared_only_if_all_of_it_is_dropped():
    window, model = Window(step=0), nn.ModuleDict({name: nn.Linear(1, 1) for name in "abc"})
    clip = ComponentNormClip(1.0, components={"a.*": "left", "b.weight": "left", "*": "right"})
    engine = GradientEngine(model, clip)
    every = frozenset(dict(model.named_parameters()))
    assert needless(engine.transform, window, every) == every
    left = frozenset({"a.weight", "a.bias", "b.weight"})
    assert needless(engine.transform, window, left | {"c.bias"}) == left
    assert needless(engine.transform, window, frozenset({"a.weight", "b.weight"})) == frozenset()


def test_a_transform_of_ones_own_may_read_everything():
    class Total(Identity):
        def reads_together(self) -> None:  # type: ignore[override]  # it may read anything
            return None

    assert len(computed(Small(), Chain([Total(), LAYERS]))) == len(list(Small().parameters()))


def test_a_subclass_that_applies_something_else_may_read_everything():
    class Reading(ValueClip):
        def apply_(self, gradients: Any, window: Window) -> None:
            assert len(gradients) == len(list(Small().parameters()))
            super().apply_(gradients, window)

    class Saying(Reading):
        def reads_together(self) -> tuple[()]:
            return ()

    assert len(computed(Small(), Chain([Reading(1.0), LAYERS]))) == len(list(Small().parameters()))
    with pytest.raises(AssertionError):
        computed(Small(), Chain([Saying(1.0), LAYERS]))


@cases("transform", [LAYERS, TENSORS, GradDrop(1.0, include="blocks.*"), HeadOnly()], ids=str)
def test_the_share_kept_counts_what_was_not_computed(transform: GradientTransform):
    kept = []
    for skip in (True, False):
        model = Small()
        engine = GradientEngine(model, transform, seed=3, skip_dropped=skip)
        one_window(engine, model, step=0)
        kept.append(engine.statistics["kept"])
    assert kept[0] == kept[1] < 1


def test_zeros_that_zero_grad_left_are_no_gradients():
    reports = []
    for set_to_none in (True, False):
        model = Small()
        engine = warmed_up(model, Chain([TENSOR_CLIP, LAYERS]))
        one_window(engine, model, step=0)
        model.zero_grad(set_to_none=set_to_none)
        one_window(engine, model, step=1)
        reports.append(engine.statistics)
    assert reports[0] == reports[1]


# ---------------------------------------------------------------- requires_grad is back
def test_requires_grad_is_off_within_a_window_until_it_is_applied():
    model = Small()
    model.get_parameter("blocks.1.output.weight").requires_grad_(False)  # the user's own
    engine = warmed_up(model, HeadOnly())
    with engine.window(0):
        assert len(frozen(model)) > 10
        backward(loss_on(model, tokens_at(0)))
        engine.apply_()
        assert frozen(model) == {"blocks.1.output.weight"}
    assert frozen(model) == {"blocks.1.output.weight"}


@cases("where", ["forward", "apply"])
def test_requires_grad_is_back_after_an_exception(where: str):
    class BadLuck(Exception):  # noqa: N818
        pass

    class Breaking(Identity):
        def apply_(self, *_: Any) -> None:
            if broken:
                raise BadLuck

    broken, model = False, Small()
    engine = warmed_up(model, Chain([HeadOnly(), Breaking()]))
    if where == "forward":
        model.blocks[1].forward = Breaking().apply_
    broken = True
    with pytest.raises(BadLuck):
        one_window(engine, model)
    assert not frozen(model)
    engine.open(0)
    assert frozen(model)
    engine.abandon()
    assert not frozen(model)


def test_a_window_that_cannot_be_opened_is_not_open():
    model = Small()
    engine = warmed_up(model, GradDrop(0.5, granularity="tensor", resample_every="epoch"))
    with pytest.raises(ConfigurationError, match="Parameter `epoch`"):
        engine.open(1)
    assert engine.current is None
    assert not frozen(model)
    one_window(engine, model, step=1)


def test_a_strategy_is_asked_once_in_a_window_what_it_drops():
    class Undecided(LayerGradDrop):
        asked = 0

        def dropped_depths(self, window: Window) -> frozenset[int]:
            self.asked += 1
            return frozenset({self.asked % 2})

    model = Small()
    for transform in (Undecided(0.5), Chain([GradDrop(0.5), Undecided(0.5), ComponentNormClip(1.0)])):
        engine = GradientEngine(model, transform, nonfinite="skip")
        for step in range(3):
            model.zero_grad()
            one_window(engine, model, step=step)
        (member,) = (each for each in engine.transform.flattened() if isinstance(each, Undecided))
        assert member.asked == 3


def test_a_transform_of_0_1_that_keeps_what_it_said_it_would_drop_is_an_error():
    class Saying(Identity):
        def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
            return frozenset({"head.weight"})

    model = Small()
    engine = GradientEngine(model, Saying())
    with pytest.warns(DeprecationWarning, match=r"`Saying` should state `dropped` .* will be removed in 0.3"):
        one_window(engine, model)
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"Found `.*` at step 0, which was not computed and is not dropped"):
        one_window(engine, model)
    assert not frozen(model)
