"""Phases: strategies that calibrate, learn from steps, and act on updates, in any loop."""

import pickle
from collections.abc import Iterable
from copy import deepcopy
from typing import Any
from weakref import ref

import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
    GradientEngine,
    GradientTransform,
    LayerGradDrop,
)
from tests.cases import cases
from tests.engine.phases import FirstRowStays, LargestOfFirst, LargestSeen
from tests.engine.skipping import one_window, warmed_up
from tests.transforms.small import Small, assert_same_bits


def backward(model: nn.Module, size: float) -> None:
    (model(torch.ones(2, 3)).sum() * size).backward()


def step(
    engine: GradientEngine, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], at: int, size: float = 1.0
) -> None:
    model.zero_grad()
    with engine.window(at):
        backward(model, size)
        engine.apply_()
    for optimizer in optimizers:
        optimizer.step()


def made(transform: GradientTransform) -> tuple[nn.Sequential, GradientEngine, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    engine = GradientEngine(model, transform)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    engine.attach(optimizer)
    return model, engine, optimizer


def matrix(model: nn.Module, index: int) -> Tensor:
    weight = model.get_parameter(f"{index}.weight")
    return weight.detach()


def member(engine: GradientEngine, kind: type) -> Any:
    (only,) = (each for each in engine.transform.flattened() if isinstance(each, kind))
    return only


def largest_of(engine: GradientEngine) -> dict[str, Tensor]:
    largest: dict[str, Tensor] = member(engine, LargestSeen).largest
    return largest


# ---------------------------------------------------------------- learning
def test_what_a_window_teaches_is_kept_once_its_step_has_happened():
    model, engine, optimizer = made(LargestSeen())
    step(engine, model, [optimizer], 0, size=1.0)
    largest = member(engine, LargestSeen).largest["1.bias"]
    assert float(largest) == pytest.approx(2 * 2**0.5)
    step(engine, model, [], 1, size=50.0)  # a scaler leaves the step out
    step(engine, model, [optimizer], 2, size=0.5)
    assert torch.equal(member(engine, LargestSeen).largest["1.bias"], largest)
    gradient = model.get_parameter("1.bias").grad
    assert gradient is not None
    assert float(gradient.norm()) == pytest.approx(2**0.5)


def test_what_no_step_has_committed_is_forgotten():
    model, engine, optimizer = made(LargestSeen())
    step(engine, model, [], 0)
    model.zero_grad(set_to_none=True)
    with engine.window(1):
        model[1](torch.ones(2, 4)).sum().backward()
        engine.apply_()
    optimizer.step()
    largest = member(engine, LargestSeen).largest
    assert {name for name in largest if largest[name] > 0} == {"1.weight", "1.bias"}


def test_a_fused_step_without_effect_teaches_nothing():
    model, engine, optimizer = made(LargestSeen())
    for at, overflow in enumerate([0.0, 1.0, 0.0]):
        # as `GradScaler` does
        optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.tensor(overflow)  # type: ignore[attr-defined]
        step(engine, model, [optimizer], at, size=[1.0, 50.0, 0.5][at])
    assert float(member(engine, LargestSeen).largest["1.bias"]) == pytest.approx(2 * 2**0.5)


def test_what_is_not_finite_teaches_nothing_under_a_policy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    engine = GradientEngine(model, LargestSeen(), nonfinite="skip")
    optimizer = torch.optim.AdamW(model.parameters())
    engine.attach(optimizer)
    before = deepcopy(model.state_dict())
    step(engine, model, [optimizer], 0, size=float("inf"))
    assert not any(member(engine, LargestSeen).largest.values())
    assert_same_bits(before, model.state_dict())


def test_of_several_optimizers_the_one_that_holds_a_tensor_commits_it():
    model, engine, _ = made(LargestSeen())
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in model)
    engine.attach(first, second)
    step(engine, model, [second], 0)
    largest = member(engine, LargestSeen).largest
    assert {name for name in largest if largest[name] > 0} == {"1.weight", "1.bias"}
    first.step()
    assert all(norm > 0 for norm in member(engine, LargestSeen).largest.values())


def test_a_copy_of_an_optimizer_is_attached_anew_and_one_that_is_attached_is_not_called_twice():
    model, engine, optimizer = made(Chain([LargestSeen(), FirstRowStays()]))
    other = deepcopy(optimizer)
    other.param_groups[0]["params"] = list(model.parameters())
    engine.attach(other)
    engine.attach(other, optimizer)
    model.zero_grad()
    with engine.window(0):
        backward(model, 1.0)
        engine.apply_()
    engine.before_step_(other)
    other.step()
    step(engine, model, [optimizer], 1)
    assert member(engine, FirstRowStays).happened == [True, True]
    assert member(engine, FirstRowStays).calls == 2


def test_a_strategy_that_replaces_another_one_learns():
    model, engine, optimizer = made(LargestSeen())
    step(engine, model, [optimizer], 0)
    before, engine.transform = engine.transform, deepcopy(engine.transform)
    step(engine, model, [optimizer], 1, size=9.0)
    assert largest_of(engine)["1.bias"] > before.largest["1.bias"]  # type: ignore[attr-defined]


def test_an_optimizer_is_asked_for():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    engine = GradientEngine(model, LargestSeen())
    assert engine.acts_on_steps
    with pytest.raises(ConfigurationError, match=r"attached for `LargestSeen\(\)`, by `GradientEngine.attach"):
        step(engine, model, [], 0)
    assert not GradientEngine(model, GradDrop(0.5)).acts_on_steps


def test_a_copy_of_all_goes_on_once_its_optimizer_is_attached():
    model, engine, optimizer = made(Chain([LargestSeen(), FirstRowStays()]))
    step(engine, model, [optimizer], 0)
    model, engine, optimizer = deepcopy((model, engine, optimizer))
    pickled: GradientEngine = pickle.loads(pickle.dumps(engine))  # noqa: S301  # our own
    assert_same_bits(largest_of(pickled), largest_of(engine))
    engine.attach(optimizer)
    first, largest = matrix(model, 0)[0].clone(), largest_of(engine)["1.bias"].clone()
    step(engine, model, [optimizer], 1, size=9.0)
    assert torch.equal(matrix(model, 0)[0], first)
    assert largest_of(engine)["1.bias"] > largest


def test_an_optimizer_keeps_no_engine_alive_and_one_that_is_followed_twice_steps_once():
    model, engine, optimizer = made(FirstRowStays())
    gone = ref(engine.transform)
    other = GradientEngine(model, FirstRowStays())
    wrapper: Any = LightningOptimizer(optimizer)
    other.attach(optimizer, wrapper)
    step(engine, model, [optimizer], 0)
    for at in range(2):
        step(other, model, [optimizer], at)
        optimizer.step()  # once more, with the same gradients
    assert member(engine, FirstRowStays).happened == [True]
    assert member(other, FirstRowStays).happened == [True] * 2
    del engine
    assert gone() is None


def test_what_is_no_optimizer_is_refused():
    _, engine, optimizer = made(LargestSeen())
    with pytest.raises(ConfigurationError, match=r"`optimizers` should be optimizers. Found a `list`"):
        engine.attach([optimizer])  # type: ignore[arg-type]


def test_a_strategy_that_is_twice_in_a_chain_learns_and_acts_once():
    keeper = FirstRowStays()
    model, engine, optimizer = made(Chain([keeper, keeper]))
    step(engine, model, [optimizer], 0)
    assert next(iter(engine.transform.flattened())).happened == [True]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- update
def test_an_update_strategy_acts_before_and_after_each_step():
    model, engine, optimizer = made(Chain([GradDrop(0.3), FirstRowStays()]))
    before = matrix(model, 0)[1].clone()
    first = [matrix(model, index)[0].clone() for index in range(2)]
    for at in range(4):
        step(engine, model, [optimizer], at)
        assert all(torch.equal(matrix(model, index)[0], row) for index, row in enumerate(first))
    assert not torch.equal(matrix(model, 0)[1], before)
    assert member(engine, FirstRowStays).happened == [True] * 4


def test_in_a_step_with_a_closure_it_is_called_when_the_gradients_are_there():
    model, engine, optimizer = made(FirstRowStays())
    before = matrix(model, 0).clone()

    def closure() -> float:
        model.zero_grad()
        with engine.window(0):
            backward(model, 1.0)
            engine.apply_()
        engine.before_step_(optimizer)
        return 0.0

    optimizer.step(closure)
    assert torch.equal(matrix(model, 0)[0], before[0])
    assert not torch.equal(matrix(model, 0)[1], before[1])


@cases(("kind", "announced"), [(torch.optim.SGD, False), (torch.optim.LBFGS, True)])
def test_a_closure_that_does_not_announce_its_one_step_is_refused(kind: type, announced: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    engine, optimizer = GradientEngine(model, FirstRowStays()), kind(model.parameters())
    engine.attach(optimizer)

    def closure() -> Tensor:
        model.zero_grad()
        with engine.window(0):
            loss: Tensor = model(torch.ones(2, 3)).square().sum()
            torch.autograd.backward(loss)
            engine.apply_()
        if announced:
            engine.before_step_(optimizer)
        return loss

    error, message = (
        (ConfigurationError, r"call their closure once in a step for `FirstRowStays\(\)`. Found two calls by `LBFGS`")
        if announced
        else (RuntimeError, "before_step_.* should be called at the end of a closure. Found no call")
    )
    with pytest.raises(error, match=message):
        optimizer.step(closure)


def test_what_acts_on_gradients_stands_before_what_acts_on_updates():
    with pytest.raises(ConfigurationError, match=r"Found `GradDrop\(rate=0.5\)` behind `FirstRowStays\(\)`"):
        Chain([Chain([ComponentNormClip(1.0), FirstRowStays()]), GradDrop(0.5)])
    Chain([LargestOfFirst(), GradDrop(0.5), Chain([FirstRowStays(), FirstRowStays()])])


# ---------------------------------------------------------------- calibration
def test_nothing_steps_while_a_strategy_calibrates():
    model, engine, optimizer = made(Chain([GradDrop(0.5), LargestOfFirst()]))
    before = deepcopy(model.state_dict())
    for at in range(2):
        step(engine, model, [optimizer], at)
        assert_same_bits(before, model.state_dict())
        assert not engine.statistics
    assert all(score.any() for score in member(engine, LargestOfFirst).scores.values())
    step(engine, model, [optimizer], 2)
    assert engine.statistics["kept"] < 1
    scores = member(engine, LargestOfFirst).scores["0.weight"]
    gradient = model.get_parameter("0.weight").grad
    assert gradient is not None
    assert not gradient[scores < scores.median()].any()
    assert not torch.equal(before["0.weight"], matrix(model, 0))


def test_a_calibration_sees_what_other_strategies_drop():
    model = Small()
    engine = warmed_up(model, Chain([LargestOfFirst(), LayerGradDrop(1.0)]))
    scores = deepcopy(member(engine, LargestOfFirst).scores)
    one_window(engine, model, step=1)
    now = member(engine, LargestOfFirst).scores
    assert not torch.equal(scores["embeddings.weight"], now["embeddings.weight"])
    model.zero_grad()
    assert not any(name.startswith(("embeddings", "blocks")) for name in one_window(engine, model, step=2))


def test_a_calibration_is_resumed():
    whole, engine, optimizer = made(LargestOfFirst())
    for at in range(4):
        step(engine, whole, [optimizer], at)
    model, engine, optimizer = made(LargestOfFirst())
    step(engine, model, [optimizer], 0)
    state = deepcopy(engine.state_dict())
    _, engine, _ = made(LargestOfFirst())
    engine = GradientEngine(model, LargestOfFirst())
    engine.load_state_dict(state)
    for at in range(1, 4):
        step(engine, model, [optimizer], at)
    assert_same_bits(whole.state_dict(), model.state_dict())


def test_a_calibration_under_loss_scaling_is_refused():
    model, engine, _ = made(LargestOfFirst())
    engine.open(0)
    backward(model, 1.0)
    with pytest.raises(ConfigurationError, match=r"`LargestOfFirst\(\)` calibrate .* without loss scaling"):
        engine.apply_(loss_scale=torch.tensor(2.0))
