"""Skipping work where it might go wrong: unused parameters, gradients that get lost, compiled models."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_sparsegrad import (
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    LayerGradDrop,
)
from tests.cases import cases
from tests.engine.helpers import loss_on, tokens_at
from tests.engine.skipping import (
    LAYERS,
    TENSORS,
    computed,
    frozen,
    one_window,
    small,
    train,
    warmed_up,
)
from tests.transforms.small import Small, assert_same_bits, trained


# ---------------------------------------------------------------- what the loss depends on
class Spare(Small):
    """Has a submodule that the loss never depends on, and can skip its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(1, 1)
        self.short = False

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.embeddings(tokens))) if self.short else super().forward(tokens)


@cases("first", ["head.bias", "spare.bias"])
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


@cases("first", [True, False], ids=["the first window", "a later one"])
def test_a_window_without_a_backward_pass_tells_nothing(first: bool):
    model = Small()
    engine = GradientEngine(model, HeadOnly()) if first else warmed_up(model, HeadOnly())
    with engine.window(0):
        engine.apply_()
    if first:
        assert len(one_window(engine, model)) == len(list(model.parameters()))
        model.zero_grad()
    assert len(one_window(engine, model)) == 3


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
@cases("part", [False, True], ids=["block", "part of a block"])
@cases("set_to_none", [True, False], ids=["to None", "to zero"])
@cases("transform", [GradualUnfreezing(unfreeze_every=2), GradDrop(1.0, include="embeddings.*")], ids=str)
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


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_gradient_that_got_lost_in_a_block_that_was_replaced_is_an_error():
    def loss(model: nn.Module, step: int) -> Tensor:
        if step == 0:  # other modules with the same parameters, as wrappers are
            blocks = model.get_submodule("blocks")
            model.blocks = copy.deepcopy(blocks, {id(parameter): parameter for parameter in blocks.parameters()})
        return loss_on(model, tokens_at(step))

    with pytest.raises(RuntimeError, match=r"`blocks\..*` should train"):
        train(Checkpointed(), GradDrop(1.0, include="embeddings.*"), skip=True, loss=loss, set_to_none=True)


@cases("skip", [True, False], ids=["skipping", "computing"])
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


@cases("skip", [True, False], ids=["skipping", "computing"])
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
@pytest.mark.parametrize(
    ("transform", "seeds"),
    [
        (LAYERS, [0]),
        *(
            pytest.param(each, [0, 1, 2], marks=pytest.mark.long)
            for each in (GradualUnfreezing(unfreeze_every=1), HeadOnly())
        ),
        pytest.param(LAYERS, [1, 2], marks=pytest.mark.long),
    ],
    ids=str,
)
def test_blocks_compiled_one_by_one_are_skipped_without_a_warning(transform, seeds):
    for seed in seeds:
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=SLOWER)
            skipped = train(in_blocks(small()), transform, skip=True, seed=seed, steps=12)
            model = in_blocks(small())
            assert len(computed(model, HeadOnly())) == 3
        assert_same_bits(skipped, train(in_blocks(small()), transform, skip=False, seed=seed, steps=12))


@pytest.mark.filterwarnings("ignore:.*")
@cases("transform", [LAYERS, TENSORS], ids=str)
def test_a_model_compiled_as_a_whole_is_computed_whole_and_says_so_once(transform):
    torch._dynamo.reset()
    with pytest.warns(UserWarning, match=SLOWER) as caught:
        dropped = train(as_a_whole(small()), transform, skip=True)
    assert len([warning for warning in caught if "nevertheless" in str(warning.message)]) == 1
    assert_same_bits(dropped, train(as_a_whole(small()), transform, skip=False))


@pytest.mark.filterwarnings("ignore:.*")
@cases("way", ["wrapper", "method", "forward", "another method"])
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


@cases("part", [False, True], ids=["model", "part of it"])
def test_a_model_split_over_devices_by_data_parallel_is_computed_whole(part: bool):
    model = nn.DataParallel(Small())
    layers = ["*blocks.0.*", "*blocks.1.*"]
    engine = GradientEngine(nn.ModuleList([model]) if part else model, LayerGradDrop(0.5, layers=layers))
    with pytest.warns(UserWarning, match="wrapped for parallel training on its own" if part else "DataParallel"):
        engine.open(0)
    assert not frozen(model)
