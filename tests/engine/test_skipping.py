"""Skipping work changes nothing: what is dropped whole is not computed, and the weights are those of computing it."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
from lightning_sparsegrad.transforms.base import Window
from tests.engine.helpers import OPTIMIZERS, backward, loss_on, tokens_at
from tests.tiny import tiny_bert, tiny_gpt2, tiny_t5
from tests.transforms.golden import GOLDEN, Golden
from tests.transforms.small import Small, assert_same_bits, on_one_thread, trained

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

TENSOR_CLIP = ComponentNormClip(0.05, components="tensor")
LAYERS = LayerGradDrop(0.5)
TENSORS = GradDrop(0.5, granularity="tensor")
Loss = Callable[[nn.Module, int], Tensor]


def small(*, tied: bool = False) -> Small:
    """Return the small model with inputs that torch multiplies by the same kernels whatever needs a gradient."""
    model = Small(tied=tied)
    for block in model.blocks:
        block.attention.batch_first = False  # type: ignore[union-attr]  # its transposed inputs are what differs
    return model


def train(
    model: nn.Module,
    transform: GradientTransform,
    *,
    skip: bool,
    loss: Loss = lambda model, step: loss_on(model, tokens_at(step)),
    steps: int = 6,
    optimizer: Any = OPTIMIZERS["AdamW"],
    accumulate: int = 1,
    set_to_none: bool = True,
    seed: int = 3,
) -> dict[str, Tensor]:
    """Train a model; return its weights, and how many gradients were computed."""
    torch.manual_seed(0)
    stepper = optimizer(model.parameters())
    engine = GradientEngine(model, transform, total_steps=steps, seed=seed, skip_dropped=skip)
    for step in range(steps):
        with engine.window(step, epoch=step // 2):
            for part in range(accumulate):
                backward(loss(model, step * accumulate + part))
            engine.apply_()
        stepper.step()
        stepper.zero_grad(set_to_none=set_to_none)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def one_window(engine: GradientEngine, model: nn.Module, step: int = 0) -> set[str]:
    """Run a window; return the parameters whose gradients it computes."""
    with engine.window(step, epoch=0):
        backward(loss_on(model, tokens_at(step)))
        names = trained(model)
        engine.apply_()
    return names


def warmed_up(model: nn.Module, transform: GradientTransform, **arguments: Any) -> GradientEngine:
    """Return an engine that has seen a window, which it always computes whole."""
    engine = GradientEngine(model, transform, **{"total_steps": 6, "seed": 3, **arguments})
    assert one_window(engine, model) == trained_by(model)
    model.zero_grad()
    return engine


def trained_by(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def computed(model: nn.Module, transform: GradientTransform, step: int = 0) -> set[str]:
    """Return the parameters whose gradients a window computes."""
    return one_window(warmed_up(model, transform), model, step)


def hugging_face(model: nn.Module, step: int) -> Tensor:
    tokens = torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(step))
    labels = tokens if hasattr(model, "lm_head") else torch.tensor([0, 1, 1, 0])
    loss: Tensor = model(input_ids=tokens, labels=labels).loss
    return loss


# ---------------------------------------------------------------- the same weights
@pytest.mark.parametrize("row", GOLDEN, ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_strategy_trains_the_same_weights(row: Golden, tied: bool):
    skipped = train(small(tied=tied), row.transform, skip=True)
    assert_same_bits(skipped, train(small(tied=tied), row.transform, skip=False))


@pytest.mark.parametrize("transform", [LAYERS, TENSORS, GradualUnfreezing(), HeadOnly()], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("set_to_none", [True, False], ids=["to None", "to zero"])
def test_the_same_weights_with_accumulation_and_every_optimizer(transform, optimizer, set_to_none):
    weights = [
        train(small(), transform, skip=skip, optimizer=optimizer, accumulate=3, set_to_none=set_to_none)
        for skip in (True, False)
    ]
    assert_same_bits(*weights)


@pytest.mark.parametrize("build", [tiny_bert, tiny_gpt2, tiny_t5], ids=["BERT", "GPT-2", "T5"])
@pytest.mark.parametrize(
    "transform",
    [LAYERS, TENSORS, GradDrop(0.5, granularity="component"), GradualUnfreezing(unfreeze_every=1), GradDrop(TopDown())],
    ids=str,
)
def test_real_architectures_train_the_same_weights_with_dropout(build, transform):
    weights = [
        train(build(decoder_start_token_id=0).train(), transform, skip=skip, loss=hugging_face)
        for skip in (True, False)
    ]
    assert_same_bits(*weights)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("transform", [LAYERS, GradualUnfreezing(unfreeze_every=1), HeadOnly()], ids=str)
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


@pytest.mark.parametrize(
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
    assert engine.transform.skippable(window, every) == every
    left = frozenset({"a.weight", "a.bias", "b.weight"})
    assert engine.transform.skippable(window, left | {"c.bias"}) == left
    assert engine.transform.skippable(window, frozenset({"a.weight", "b.weight"})) == frozenset()


def test_a_transform_of_ones_own_may_read_everything():
    class Total(Identity):
        def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
            return GradientTransform.skippable(self, window, later)

    assert len(computed(Small(), Chain([Total(), LAYERS]))) == len(list(Small().parameters()))


def test_a_subclass_that_applies_something_else_may_read_everything():
    class Reading(ValueClip):
        def apply_(self, gradients: Any, window: Window) -> None:
            assert len(gradients) == len(list(Small().parameters()))
            super().apply_(gradients, window)

    class Saying(Reading):
        def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
            return later

    assert len(computed(Small(), Chain([Reading(1.0), LAYERS]))) == len(list(Small().parameters()))
    with pytest.raises(AssertionError):
        computed(Small(), Chain([Saying(1.0), LAYERS]))


@pytest.mark.parametrize("transform", [LAYERS, TENSORS, GradDrop(1.0, include="blocks.*"), HeadOnly()], ids=str)
def test_the_share_kept_counts_what_was_not_computed(transform: GradientTransform):
    kept = []
    for skip in (True, False):
        model = Small()
        engine = GradientEngine(model, transform, seed=3, skip_dropped=skip)
        one_window(engine, model, step=0)
        kept.append(engine.statistics["kept"])
    assert kept[0] == kept[1] < 1


# ---------------------------------------------------------------- requires_grad is back
def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


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


@pytest.mark.parametrize("where", ["forward", "apply"])
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


def test_a_transform_that_keeps_what_it_said_it_would_drop_is_an_error():
    class Undecided(LayerGradDrop):
        asked = 0

        def dropped_depths(self, window: Window) -> frozenset[int]:
            self.asked += 1
            return frozenset({self.asked % 2})

    model = Small()
    engine = GradientEngine(model, Undecided(0.5))
    one_window(engine, model)
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"Found `.*` at step 0, which was not computed and is not dropped"):
        one_window(engine, model)
    assert not frozen(model)


# ---------------------------------------------------------------- what the loss depends on
class Spare(Small):
    """Has a part that the loss never depends on, and can leave out its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(1, 1)
        self.short = False

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.embeddings(tokens))) if self.short else super().forward(tokens)


@pytest.mark.parametrize("first", ["head.bias", "spare.bias"])
def test_a_window_that_would_train_only_what_the_loss_does_not_depend_on_computes_all(first: str):
    model = Spare()
    engine = GradientEngine(model, GradDrop(1.0, exclude=first))
    one_window(engine, model, step=0)
    assert trained(model) == {first} - {"spare.bias"}
    engine.transform = GradientEngine(model, GradDrop(1.0, exclude="spare.bias")).transform
    one_window(engine, model, step=1)
    assert trained(model) == set()


def test_parameters_that_the_user_trains_in_turn_are_trained():
    model = Small()
    engine = warmed_up(model, GradDrop(1.0, include="blocks.*"))
    for step, part in enumerate(["blocks.", "head.", "blocks.", "head."], start=1):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(part))
        assert all(name.startswith(part) for name in one_window(engine, model, step=step))
        model.zero_grad()


def test_a_part_that_some_windows_leave_out_is_not_relied_on():
    model = Spare()
    engine = GradientEngine(model, GradDrop(1.0, include="spare.*"))
    for step, short in enumerate([False, True, False]):
        model.short = short
        one_window(engine, model, step=step)
        model.zero_grad()
    engine.transform = GradientEngine(model, GradDrop(1.0, exclude="blocks.*")).transform
    model.short = True
    assert "head.weight" in one_window(engine, model, step=3)  # or there would be nothing to differentiate by
    assert trained(model) == set()


# ---------------------------------------------------------------- where a gradient got lost
class Checkpointed(Small):
    """Checkpoints blocks, or their output layers, in the way that loses gradients where the input needs none."""

    reentrant, part = True, False

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        for block in self.blocks:
            if self.part:
                x = x + checkpoint(block.output, x, use_reentrant=self.reentrant)
                x = x + block.get_submodule("norm")(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(self.norm(x)) * (1 + self.temperature) + self.empty.sum()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("part", [False, True], ids=["block", "part of a block"])
@pytest.mark.parametrize("set_to_none", [True, False], ids=["to None", "to zero"])
@pytest.mark.parametrize(
    "transform", [GradualUnfreezing(unfreeze_every=2), GradDrop(1.0, include="embeddings.*")], ids=str
)
def test_a_gradient_that_got_lost_is_an_error(transform: GradientTransform, part: bool, set_to_none: bool):
    def loss(model: nn.Module, step: int) -> Tensor:
        return loss_on(model, tokens_at(step))

    model = Checkpointed()
    model.part = part
    with pytest.raises(RuntimeError, match=r"`blocks\..*` should train.*use_reentrant=False"):
        train(model, transform, skip=True, loss=loss, set_to_none=set_to_none)
    assert not frozen(model)
    train(model, transform, skip=False, loss=loss, set_to_none=set_to_none)
    model.reentrant = False
    train(model, transform, skip=True, loss=loss, set_to_none=set_to_none)


@pytest.mark.parametrize("skip", [True, False], ids=["skipping", "computing"])
def test_a_model_may_leave_layers_out_by_itself(skip: bool):
    model = Spare()
    engine = GradientEngine(model, GradDrop(1.0, include="embeddings.*"), skip_dropped=skip)
    one_window(engine, model)
    model.zero_grad()
    for step in range(1, 6):
        model.short = step % 2 == 0
        one_window(engine, model, step=step)
        assert any(name.startswith("blocks.") for name in trained(model)) != model.short
        model.zero_grad()


def hooked(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if module._forward_pre_hooks}


@pytest.mark.filterwarnings("ignore:.*")
def test_modules_are_watched_within_a_window_that_skips_and_compiled_ones_never():
    torch._dynamo.reset()
    model = Small()
    model.blocks[1].compile(backend="eager")
    engine = warmed_up(model, GradDrop(1.0, include="embeddings.*"))
    assert hooked(model) == set()
    engine.open(1)
    assert "blocks.0.output" in hooked(model)
    assert not any(name.startswith("blocks.1") for name in hooked(model))
    engine.abandon()
    assert hooked(model) == set()


@pytest.mark.parametrize("skip", [True, False], ids=["skipping", "computing"])
def test_a_part_that_never_trains_may_run_without_a_graph(skip: bool):
    class Extracting(Small):
        def forward(self, tokens: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.blocks[0](self.embeddings(tokens))
            return self.head(self.norm(self.blocks[1](x))) * (1 + self.temperature)  # type: ignore[no-any-return]

    model = Extracting()
    engine = GradientEngine(model, GradDrop(1.0, include="blocks.1.*"), skip_dropped=skip)
    for step in range(4):
        names = one_window(engine, model, step=step)
        assert any(name.startswith("blocks.1.") for name in names) == (step == 0 or not skip)
        assert trained(model) == {"norm.weight", "norm.bias", "head.weight", "head.bias", "temperature"}
        model.zero_grad()


def test_a_resumed_engine_knows_what_the_loss_depends_on():
    model = Small()
    state = warmed_up(model, HeadOnly()).state_dict()
    engine = GradientEngine(model, HeadOnly())
    engine.load_state_dict(state)
    assert len(one_window(engine, model)) == 3


# ---------------------------------------------------------------- compiled models
SLOWER = "Gradients that are dropped whole are computed nevertheless.*one compiled region"


def in_blocks(model: Small) -> Small:
    for block in model.blocks:
        block.compile(backend="aot_eager")
    return model


def as_a_whole(model: Small) -> Small:
    model.compile(backend="aot_eager")
    return model


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("transform", [LAYERS, GradualUnfreezing(unfreeze_every=1), HeadOnly()], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_blocks_compiled_one_by_one_are_skipped_without_a_warning(transform, seed):
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=SLOWER)
        skipped = train(in_blocks(small()), transform, skip=True, seed=seed, steps=12)
        model = in_blocks(small())
        assert len(computed(model, HeadOnly())) == 3
    assert_same_bits(skipped, train(in_blocks(small()), transform, skip=False, seed=seed, steps=12))


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("transform", [LAYERS, TENSORS], ids=str)
def test_a_model_compiled_as_a_whole_is_computed_whole_and_says_so_once(transform):
    torch._dynamo.reset()
    with pytest.warns(UserWarning, match=SLOWER) as caught:
        dropped = train(as_a_whole(small()), transform, skip=True)
    assert len([warning for warning in caught if "nevertheless" in str(warning.message)]) == 1
    assert_same_bits(dropped, train(as_a_whole(small()), transform, skip=False))


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("way", ["wrapper", "method", "forward", "another method"])
def test_compiled_regions_are_seen_however_they_were_compiled(way: str):
    model: Any = Small()
    if way == "wrapper":
        model = torch.compile(model, backend="eager")
    elif way == "method":
        model.compile(backend="eager")
    elif way == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    else:
        model.encode = torch.compile(model.forward, backend="eager")
    engine = GradientEngine(model, HeadOnly())
    with pytest.warns(UserWarning, match=SLOWER):
        engine.open(0)
    assert not frozen(model)


@pytest.mark.parametrize("part", [False, True], ids=["model", "part of it"])
def test_a_model_split_over_devices_by_data_parallel_is_computed_whole(part: bool):
    model = nn.DataParallel(Small())
    layers = ["*blocks.0.*", "*blocks.1.*"]
    engine = GradientEngine(nn.ModuleList([model]) if part else model, LayerGradDrop(0.5, layers=layers))
    with pytest.warns(UserWarning, match="wrapped for parallel training by itself" if part else "DataParallel"):
        engine.open(0)
    assert not frozen(model)
