"""What holds of every adapter that a loop calls by itself."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_sparsegrad import (
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    HeadOnly,
    Identity,
    LayerGradDrop,
    ZClip,
)
from tests.engine.helpers import BOTH, OPTIMIZERS, backward, loss_on, tokens_at, weights
from tests.loops.explicit import ALL, BORDER, MICRO, Loop, by_hand, new_scaler
from tests.transforms.small import Small, assert_same_bits


# ------------------------------------------------------------ same weights
def assert_trained(model: nn.Module) -> None:
    before, after = weights(Small()), weights(model)
    assert any(not torch.equal(after[name], before[name]) for name in before)


def check_same_weights(kind: type[Loop], transform: GradientTransform, **options: Any) -> None:
    loop = kind(transform, **options)
    loop.train()
    assert loop.adapter.engine.step == 6
    assert_trained(loop.small)
    assert_same_bits(weights(loop.small), weights(by_hand(transform, **options)))


def check_compiled(after: type[Loop], before: type[Loop]) -> None:
    """Check a model that is compiled after it was prepared, and one that was compiled before or with it."""
    for kind, compiled in ((after, True), (before, False)):
        masked, layered = kind(BOTH, compiled=compiled), kind(LayerGradDrop(0.5), compiled=compiled)
        masked.train()
        with pytest.warns(UserWarning, match="one compiled region holds what is dropped and what is kept"):
            layered.train()
        for loop, transform in ((masked, BOTH), (layered, LayerGradDrop(0.5))):
            plain = by_hand(transform, compiled=True, skip_dropped=False)
            assert_same_bits(weights(loop.small), weights(plain))


def check_work_is_skipped(kind: type[Loop]) -> None:
    loop = kind(HeadOnly())
    seen: list[bool] = []
    loop.small.register_forward_hook(lambda *_: seen.append(loop.small.embeddings.weight.requires_grad))
    loop.train()
    assert seen == [True] * MICRO + [False] * (ALL - MICRO)  # the first window is computed whole
    assert all(parameter.requires_grad for parameter in loop.small.parameters())


def check_loss_scaling(
    kind: type[Loop], transform: GradientTransform, optimizer: str, *, unscales: bool, nonfinite: Any = "propagate"
) -> None:
    mine, theirs = new_scaler(), new_scaler()
    spoiled = (3, 7)
    loop = kind(transform, optimizer=optimizer, scaler=mine, nonfinite=nonfinite)
    loop.train(spoiled=spoiled)
    plain = by_hand(
        transform, optimizer=optimizer, scaler=theirs, unscales=unscales, spoiled=spoiled, nonfinite=nonfinite
    )
    assert mine.get_scale() == theirs.get_scale() < 2.0**12  # two overflows, and no growth
    assert loop.adapter.engine.step == 6  # these count
    if nonfinite != "propagate":
        assert loop.adapter.statistics["nonfinite"] == 2
    assert_trained(loop.small)
    assert_same_bits(weights(loop.small), weights(plain))


def check_nonfinite(kind: type[Loop]) -> None:
    loop = kind(BOTH, nonfinite="skip")
    loop.train(spoiled=[3])
    assert loop.adapter.statistics["nonfinite"] == 1
    assert_trained(loop.small)
    assert_same_bits(weights(loop.small), weights(by_hand(BOTH, spoiled=[3], nonfinite="skip")))
    loop = kind(LayerGradDrop(0.5), nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"Found an infinite or undefined one, of `\S+`, at step 1\."):
        loop.train(spoiled=[3])
    assert loop.adapter.engine.current is None
    assert all(parameter.requires_grad for parameter in loop.small.parameters())


# ------------------------------------------------------------ resume
def check_resume(kind: type[Loop], transform: GradientTransform, folder: Path, *, scaled: bool = False) -> None:
    def new(seed: int) -> Loop:
        return kind(transform, scaler=new_scaler() if scaled else None, seed=seed)

    whole, first = new(5), new(5)
    whole.train()
    first.train(last=BORDER)
    first.save(folder)
    assert first.adapter.state_dict()["step"] == 4
    with pytest.raises(AssertionError):
        assert_same_bits(weights(first.small), weights(whole.small))
    second = new(99)
    second.load(folder)
    assert second.adapter.engine.step == 4
    second.train(first=BORDER)
    assert_same_bits(weights(second.small), weights(whole.small))


def check_changed_strategy(kind: type[Loop], folder: Path) -> None:
    first = kind(GradDrop(0.5))
    first.train(last=BORDER)
    first.save(folder)
    second = kind(GlobalNormClip(0.1))
    with pytest.warns(UserWarning, match=r"strategy changes from `GradDrop\(.*` to `GlobalNormClip\("):
        second.load(folder)
    assert second.adapter.engine.step == 4


# ------------------------------------------------------------ misuse
def check_refusals(kind: type[Loop], prepare: str) -> None:
    loop = kind(Identity())

    def refused(model: Any, optimizer: Any, transform: Any = loop.adapter.engine.transform) -> str:
        with pytest.raises(ConfigurationError) as error:
            loop.adapt(model, optimizer, transform)
        return str(error.value)

    model = f"Parameter `model` should be the module that `{prepare}` returned. Found a "
    assert refused(None, loop.optimizer) == f"{model}`NoneType`."
    assert refused(Small(), loop.optimizer) == f"{model}`Small`."
    optimizer = f"Parameter `optimizer` should be the optimizer that `{prepare}` returned. Found a "
    raw = OPTIMIZERS["SGD"](loop.small.parameters())
    assert refused(loop.model, raw) == f"{optimizer}`SGD`."
    assert refused(loop.model, [loop.optimizer, None]) == f"{optimizer}`NoneType`."
    assert refused(loop.model, []) == "Parameter `optimizer` should be one optimizer or several. Found `[]`."
    assert refused(loop.model, loop.optimizer, "mask").startswith("Parameter `transform` should be a gradient tr")
    other = kind(Identity())
    assert refused(loop.model, other.optimizer).startswith(
        "Parameter `optimizer` should hold parameters of the model. Found none in `AdamW`:"
    )


def check_optimizers_under_loss_scaling(kind: type[Loop], two: Callable[[Any], list[Any]]) -> None:
    loop = kind(Identity(), scaler=new_scaler())
    model, optimizers = loop.model, two(loop)
    with pytest.raises(ConfigurationError, match=r"be one optimizer under loss scaling, .* Found 2\.$"):
        loop.adapt(model, optimizers, Identity())
    with pytest.raises(ConfigurationError, match=r"every parameter that trains under loss scaling, .*`blocks\.\S+` in"):
        loop.adapt(model, optimizers[0], Identity())
    for name, parameter in loop.small.named_parameters():
        parameter.requires_grad_(not name.startswith("blocks."))
    loop.adapt(model, optimizers[0], Identity())


def check_misuse(kind: type[Loop]) -> None:
    owner = type(kind(Identity()).adapter).__name__
    forgotten = rf"`{owner}\.apply_\(\)` should be called in each window before `optimizer\.step\(\)`\. .* step 0\."
    loop = kind(HeadOnly())
    before = weights(loop.small)
    with pytest.raises(RuntimeError, match=forgotten):
        loop.micro_batch(applies=False)
    assert_same_bits(weights(loop.small), before)
    assert all(parameter.requires_grad for parameter in loop.small.parameters())
    outside = (
        rf"`{owner}\.apply_\(\)` .* once in a window that the adapter has opened, .* none open, after {{}} of them\."
    )
    with pytest.raises(RuntimeError, match=outside.format(0)):
        loop.adapter.apply_()
    loop.micro_batch()
    with pytest.raises(RuntimeError, match=outside.format(1)):
        loop.adapter.apply_()


def check_steps_without_windows(kind: type[Loop]) -> None:
    loop = kind(GradDrop(0.5))
    owner = type(loop.adapter).__name__
    loop.micro_batch()
    message = rf"`{owner}\.apply_\(\)` should be called before each `optimizer\.step\(\)`\. Found two steps of `AdamW`"
    with pytest.warns(UserWarning, match=message):
        loop.optimizer.step()
    loop.optimizer.step()  # it is said once
    with pytest.warns(UserWarning, match=r"^Nothing trains: `GradDrop\(rate=1\)` drops every gradient"):
        kind(GradDrop(1.0))


def check_long_warmup(kind: type[Loop]) -> None:
    with pytest.warns(UserWarning, match=r"`ZClip\(.*\)` is warming up in all 6 steps of this run"):
        kind(ZClip())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kind(ZClip(warmup_steps=5))
        kind(ZClip(), total_steps=None)


def check_two_adapters(kind: type[Loop]) -> None:
    loop = kind(GradDrop(0.5))
    other = loop.adapt(loop.model, loop.optimizer, ComponentNormClip(0.1))
    message = r"Gradients of a model should be transformed by one engine; use `Chain` for several strategies\."
    with pytest.raises(ConfigurationError, match=message), loop.adapter.window(), other.window():
        loop.adapter.apply_()
    with pytest.raises(ConfigurationError, match=message):
        loop.adapter.open()


def interrupt(loop: Loop, window: AbstractContextManager[Any]) -> None:
    def in_window() -> None:
        with window:
            assert not loop.small.embeddings.weight.requires_grad
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_window()


def check_exceptions(kind: type[Loop]) -> None:
    loop = kind(HeadOnly())
    loop.micro_batch()
    interrupt(loop, loop.adapter.window())
    assert all(parameter.requires_grad for parameter in loop.small.parameters())
    assert loop.adapter.engine.current is None


def check_windows(kind: type[Loop]) -> None:
    loop = kind(Identity())
    adapter = loop.adapter
    opened = adapter.open(epoch=0)
    with adapter.window(epoch=0) as window:
        assert window is opened  # of a later micro-batch
    assert adapter.open(epoch=0) is opened
    assert adapter.open(epoch=1).epoch == 1  # the last window of the epoch before never stepped
    backward(loss_on(loop.small, tokens_at(0)))
    assert adapter.open(epoch=2).epoch == 1  # it goes on in the next epoch
    loop.small.zero_grad()
    assert adapter.open(epoch=2).epoch == 2  # it was given up
    assert adapter.engine.step == 0


def check_nothing_keeps_an_adapter_alive(kind: type[Loop]) -> None:
    loop = kind(HeadOnly())
    loop.micro_batch()
    loop.adapter.open()
    assert not loop.small.embeddings.weight.requires_grad
    del loop.adapter
    assert loop.small.embeddings.weight.requires_grad
    backward(loss_on(loop.small, tokens_at(0)))
    loop.optimizer.step()  # without a complaint
