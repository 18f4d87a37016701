"""Loops around an adapter that they call by themselves, and the same loop by hand around `GradientEngine`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparsegrad import (
    AutoClip,
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
    SparseMask,
    TrainableRows,
)
from lightning_sparsegrad.loops._explicit_adapter import ExplicitAdapter
from tests.engine.helpers import BOTH, OPTIMIZERS, backward, loss_on, tokens_at, weights
from tests.transforms.small import Small, assert_same_bits

BATCHES, EPOCHS, MICRO = 5, 2, 2  # the last window of an epoch holds one micro-batch
ALL = BATCHES * EPOCHS
BORDER = BATCHES + MICRO  # the end of the first window of the second epoch
OPTIONS: dict[str, Any] = {"seed": 5, "total_steps": 6}

TRANSFORMS: dict[str, GradientTransform] = {
    "Identity": Identity(),
    "GradDrop": GradDrop(0.5),
    "ComponentNormClip": ComponentNormClip(0.05),
    "Chain": Chain([LayerGradDrop(0.4), BOTH]),
    "LayerGradDrop": LayerGradDrop(0.5),
    "GradualUnfreezing": GradualUnfreezing(unfreeze_every="epoch"),
    "AutoClip": AutoClip(30.0, history=4),
    "TrainableRows": TrainableRows({"embeddings.weight": [1, 4]}, others="frozen"),
    "SparseMask": SparseMask(0.3, calibration_windows=2),
}
SCALED: dict[str, GradientTransform] = {
    **{name: TRANSFORMS[name] for name in ("Identity", "Chain", "AutoClip", "TrainableRows")},
    "SparseMask": SparseMask(0.3, score="random"),
}


def new_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)


def tokens_of_epoch() -> list[Tensor]:
    return [tokens_at(batch) for batch in range(BATCHES)]


class Loop(ABC):
    """A loop around an adapter.

    Args:
        transform: The strategy.
        optimizer: A name of `OPTIMIZERS`.
        scaler: A gradient scaler, with which the forward pass runs in fp16.
        compiled: Whether the model is compiled after it was prepared.
        options: Further arguments of the adapter.
    """

    model: Any
    optimizer: Any
    adapter: ExplicitAdapter

    def __init__(
        self,
        transform: GradientTransform,
        *,
        optimizer: str = "AdamW",
        scaler: torch.amp.GradScaler | None = None,
        compiled: bool = False,
        **options: Any,
    ) -> None:
        self.small = Small()
        self.prepare(OPTIMIZERS[optimizer](self.small.parameters()), scaler)
        if compiled:
            self.model = torch.compile(self.model, backend="eager")
        self.adapter = self.adapt(self.model, self.optimizer, transform, **{**OPTIONS, **options})

    @abstractmethod
    def prepare(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        """Set `model` and `optimizer` to what the library returns for `small` and the optimizer."""

    @abstractmethod
    def adapt(self, model: Any, optimizer: Any, transform: GradientTransform, **options: Any) -> ExplicitAdapter: ...

    @abstractmethod
    def train(self, first: int = 0, last: int = ALL, *, spoiled: Collection[int] = ()) -> None:
        """Train on some micro-batches of all epochs; the losses of `spoiled` are infinite."""

    @abstractmethod
    def micro_batch(self, *, applies: bool = True, epoch: int = 0) -> None:
        """Run one micro-batch in a window, and step as after the last."""

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    @abstractmethod
    def load(self, folder: Path) -> None: ...


def loss_of(model: Callable[[Tensor], Tensor], tokens: Tensor, index: int, spoiled: Collection[int]) -> Tensor:
    loss = loss_on(model, tokens)  # type: ignore[arg-type]  # a function of tokens will do
    return loss * inf if index in spoiled else loss


def is_last(index: int) -> bool:
    """Return whether a micro-batch is the last one of its window."""
    return index % BATCHES % MICRO == MICRO - 1 or index % BATCHES == BATCHES - 1


def by_hand(
    transform: GradientTransform,
    *,
    optimizer: str = "AdamW",
    scaler: torch.amp.GradScaler | None = None,
    unscales: bool = False,
    spoiled: Collection[int] = (),
    compiled: bool = False,
    **options: Any,
) -> Small:
    """Train by hand, and return the model."""
    model = Small()
    steps = OPTIMIZERS[optimizer](model.parameters())
    forward: Any = torch.compile(model, backend="eager") if compiled else model
    engine = GradientEngine(model, transform, wrapped_model=forward, **{**OPTIONS, **options})
    engine.attach(steps)

    def called(tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16, enabled=scaler is not None):
            logits: Tensor = forward(tokens)
        return logits.float()

    for index in range(ALL):
        epoch, batch = divmod(index, BATCHES)
        if batch % MICRO == 0:
            engine.open(epoch=epoch)
        loss = loss_of(called, tokens_at(batch), index, spoiled) / MICRO
        backward(loss if scaler is None else scaler.scale(loss))
        if not is_last(index):
            continue
        if scaler is None:
            engine.apply_()
        elif unscales:
            scaler.unscale_(steps)
            engine.apply_(unscaled=True)
        else:
            engine.apply_(loss_scale=scaler.scale(torch.ones(())))
        engine.abandon()
        if scaler is None:
            steps.step()
        else:
            scaler.step(steps)
            scaler.update()
        steps.zero_grad()
    return model


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
def check_resume(kind: type[Loop], transform: GradientTransform, folder: Path, **options: Any) -> None:
    whole = kind(transform, **options)
    whole.train()
    first = kind(transform, **options)
    first.train(last=BORDER)
    first.save(folder)
    assert first.adapter.state_dict()["step"] == 4
    with pytest.raises(AssertionError):
        assert_same_bits(weights(first.small), weights(whole.small))
    second = kind(transform, **{**options, "seed": 99})
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


def check_optimizers_under_loss_scaling(kind: type[Loop], two: Callable[[Small, Any], tuple[Any, list[Any]]]) -> None:
    loop = kind(Identity(), scaler=new_scaler())
    model, optimizers = two(loop.small, loop)
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
    outside = rf"`{owner}\.apply_\(\)` should be called once in a window, .* Found no open window after {{}} of them\."
    with pytest.raises(RuntimeError, match=outside.format(0)):
        loop.adapter.apply_()
    loop.micro_batch()
    with pytest.raises(RuntimeError, match=outside.format(1)):
        loop.adapter.apply_()


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
    adapter = kind(Identity()).adapter
    opened = adapter.open(epoch=0)
    with adapter.window(epoch=0) as window:
        assert window is opened  # of a later micro-batch
    assert adapter.open(epoch=0) is opened
    assert adapter.open(epoch=1).epoch == 1  # the last window of the epoch before never stepped
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
