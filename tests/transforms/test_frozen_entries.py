"""Frozen rows and entries in real training: no bit of them moves, and the others train as if they were alone."""

from copy import deepcopy
from functools import partial
from io import BytesIO
from typing import Any

import pytest
import torch
from torch.amp import GradScaler

from lightning_sparsegrad import (
    Chain,
    ConfigurationError,
    GlobalNormClip,
    GradientEngine,
    GradientTransform,
    HeadOnly,
    SparseMask,
    TrainableRows,
)
from tests.cases import cases
from tests.transforms.frozen import (
    OPTIMIZERS,
    STRATEGIES,
    TOGETHER,
    MakeOptimizer,
    Masks,
    Tiny,
    Weights,
    assert_frozen,
    loss_at,
    made,
    masks_of,
    steps_of,
    train,
    train_alone,
    weights,
)
from tests.transforms.small import assert_same_bits, on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

FUSED, SGD = OPTIMIZERS["AdamW, fused"], OPTIMIZERS["SGD, nesterov"]
BOTH = Chain([STRATEGIES["rows"], SparseMask(0.3, score="random", exclude="embedding.*", exclude_head=False)])
each_strategy = cases("strategy", STRATEGIES.values(), ids=STRATEGIES)


# ---------------------------------------------------------------- every optimizer
@pytest.mark.parametrize("steps", [5, pytest.param(1000, marks=pytest.mark.long)])
@cases("optimizer", [*OPTIMIZERS.values(), *TOGETHER.values()], ids=[*OPTIMIZERS, *TOGETHER])
def test_no_bit_moves_whatever_the_optimizer(optimizer: MakeOptimizer, steps: int):
    after, masks = train(BOTH, optimizer, steps)
    assert_frozen(after, weights(Tiny()), masks)
    assert all(weight.isfinite().all() for weight in after.values())


@cases("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_trains_trains_as_an_optimizer_over_it_alone_does(optimizer: MakeOptimizer):
    after, masks = train(BOTH, optimizer, 6)
    torch.testing.assert_close(after, train_alone(masks, optimizer, range(6)), rtol=1e-5, atol=1e-6)


@each_strategy
def test_by_any_strategy_it_does(strategy: GradientTransform):
    after, masks = train(strategy, FUSED, 12)
    assert_frozen(after, weights(Tiny()), masks)
    first = 3 if strategy is STRATEGIES["calibrated"] else 0
    torch.testing.assert_close(after, train_alone(masks, FUSED, range(first, 12)), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- fewer bits
@cases("strategy", [BOTH, STRATEGIES["calibrated"]])
@cases(
    "optimizer",
    [partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, eps=1e-4, fused=True), SGD],
    ids=["AdamW, fused", "SGD"],
)
@cases("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_no_bit_of_other_dtypes_moves(strategy: GradientTransform, optimizer: MakeOptimizer, dtype: torch.dtype):
    after, masks = train(strategy, optimizer, 30, dtype)
    assert {weight.dtype for weight in after.values()} == {dtype}
    assert_frozen(after, weights(Tiny().to(dtype)), masks)


@cases("strategy", [BOTH, STRATEGIES["largest rows"]])
@cases("optimizer", [FUSED, SGD], ids=["AdamW, fused", "SGD"])
@cases("unscaled", [False, True])
def test_no_bit_moves_under_a_scaler_whatever_overflows(
    strategy: GradientTransform, optimizer: MakeOptimizer, unscaled: bool
):
    model, engine, stepping = made(strategy, optimizer)
    scaler, before, scales = GradScaler("cpu", 2.0**14, growth_interval=4), weights(model), []
    for step in range(30):
        stepping.zero_grad()
        with engine.window(step):
            with torch.autocast("cpu", torch.float16, cache_enabled=False):
                loss = loss_at(step, model)
            torch.autograd.backward(scaler.scale(loss))
            if step in {3, 4, 11}:  # in an entry that may be frozen
                model.embedding.weight.grad[step % 5, 1] = torch.inf  # type: ignore[index]
            if unscaled:
                scaler.unscale_(stepping)
            engine.apply_(loss_scale=None if unscaled else scaler.scale(torch.ones(())))
        was = weights(model)
        scaler.step(stepping)
        scaler.update()
        scales.append(scaler.get_scale())
        if step in {3, 4, 11}:
            assert_same_bits(weights(model), was)
            assert scales[-1] < scales[-2]
    assert_frozen(weights(model), before, masks_of(engine))


# ---------------------------------------------------------------- resume
def resumed_at(strategy: GradientTransform, stop: int | None, steps: int = 7) -> tuple[Weights, Masks]:
    """Train; at a border between windows, go on in fresh objects from a file."""
    model, engine, stepping = made(strategy, FUSED)
    for step in range(steps):
        if step == stop:
            file = BytesIO()
            torch.save([model.state_dict(), stepping.state_dict(), engine.state_dict()], file)
            file.seek(0)
            states = torch.load(file, weights_only=True)
            model, engine, stepping = made(deepcopy(strategy), FUSED)
            model.load_state_dict(states[0])
            stepping.load_state_dict(states[1])
            engine.load_state_dict(states[2])
        before = weights(model)
        for _ in steps_of(engine, model, [stepping], range(step, step + 1)):
            pass
        if strategy is STRATEGIES["calibrated"] and step < 3:
            assert_same_bits(weights(model), before)
        else:
            assert any(not torch.equal(weight, before[name]) for name, weight in weights(model).items())
    return weights(model), masks_of(engine)


@each_strategy
def test_a_run_resumed_at_any_border_is_one_that_never_stopped(strategy: GradientTransform):
    expected, masks = resumed_at(strategy, None)
    for stop in range(7) if strategy is STRATEGIES["calibrated"] else (4,):
        actual, others = resumed_at(strategy, stop)
        assert_same_bits(actual, expected)
        assert all(torch.equal(mask, masks[name]) for name, mask in others.items())
    assert_frozen(expected, weights(Tiny()), masks)


# ---------------------------------------------------------------- what users do
@each_strategy
def test_what_a_user_changes_between_windows_stays_changed(strategy: GradientTransform):
    """A snapshot of the first weights, restored after each step, would undo it."""
    model, engine, stepping = made(strategy, FUSED)
    for step in steps_of(engine, model, [stepping], range(6)):
        if step == 3:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1.0)
            before = weights(model)
    assert_frozen(weights(model), before, masks_of(engine))


@each_strategy
def test_no_bit_moves_with_several_optimizers(strategy: GradientTransform):
    model = Tiny()
    engine = GradientEngine(model, strategy, seed=4)
    optimizers = [FUSED(model.embedding.parameters()), SGD([*model.hidden.parameters(), *model.head.parameters()])]
    engine.attach(*optimizers)
    for _ in steps_of(engine, model, optimizers, range(8)):
        pass
    assert_frozen(weights(model), weights(Tiny()), masks_of(engine))


@each_strategy
def test_no_bit_moves_in_steps_with_a_closure(strategy: GradientTransform):
    model, engine, stepping = made(strategy, SGD)
    for step in range(8):

        def closure(step: int = step) -> float:
            stepping.zero_grad()
            with engine.window(step):
                loss = loss_at(step, model)
                torch.autograd.backward(loss)
                engine.apply_()
            engine.before_step_(stepping)
            return float(loss.detach())

        stepping.step(closure)
    assert_frozen(weights(model), weights(Tiny()), masks_of(engine))


@cases("name", ["rows", "random entries"])
def test_several_closures_in_a_step_are_refused(name: str):
    model, engine, stepping = made(STRATEGIES[name], torch.optim.LBFGS)

    def closure() -> Any:
        stepping.zero_grad()
        with engine.window(0):
            loss = loss_at(0, model)
            torch.autograd.backward(loss)
            engine.apply_()
        engine.before_step_(stepping)
        return loss

    with pytest.raises(ConfigurationError, match="should call their closure once in a step"):
        stepping.step(closure)


def test_an_optimizer_that_is_not_attached_is_asked_for():
    for strategy in STRATEGIES.values():
        model = Tiny()
        engine = GradientEngine(model, strategy)
        with pytest.raises(ConfigurationError, match=r"attached for .*, by `GradientEngine.attach"):
            for _ in steps_of(engine, model, [FUSED(model.parameters())], range(4)):
                pass


@cases("set_to_none", [True, False])
@cases("strategy", [BOTH, STRATEGIES["calibrated"]])
def test_zeros_in_place_of_no_gradients_change_nothing(strategy: GradientTransform, set_to_none: bool):
    model, engine, stepping = made(strategy, FUSED)
    for step in range(6):
        with engine.window(step):
            torch.autograd.backward(loss_at(step, model))
            engine.apply_()
        stepping.step()
        stepping.zero_grad(set_to_none=set_to_none)
    assert_same_bits(weights(model), train(strategy, FUSED, 6)[0])


# ---------------------------------------------------------------- with other strategies
CHAINS: dict[str, GradientTransform] = {
    "masks of the same tensors": Chain([STRATEGIES["rows"], STRATEGIES["random entries"]]),
    "mask and clip": Chain([STRATEGIES["random entries"], GlobalNormClip(0.1)]),
    "clip and mask": Chain([GlobalNormClip(0.1), STRATEGIES["random entries"]]),
    "freeze and mask": Chain(
        [HeadOnly(layers=["embedding.*", "hidden.*"]), SparseMask(0.5, score="weight", exclude_head=False)]
    ),
}


@cases("name", CHAINS)
def test_no_bit_moves_in_a_chain(name: str):
    after, masks = train(CHAINS[name], FUSED, 10)
    assert_frozen(after, weights(Tiny()), masks)


def test_a_clip_behind_a_mask_measures_what_trains_and_one_before_it_everything():
    norms = {}
    for name in ("mask and clip", "clip and mask"):
        model, engine, _ = made(CHAINS[name], SGD)
        with engine.window(0):
            torch.autograd.backward(loss_at(0, model))
            engine.apply_()
        norms[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert float(norms["mask and clip"]) == pytest.approx(0.1, rel=1e-4)
    assert 0 < norms["clip and mask"] < 0.09


# ---------------------------------------------------------------- what moves rows in the forward pass
class Renormed(Tiny):
    """Has an embedding whose rows are scaled in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding.max_norm = 1.0


def test_an_embedding_with_a_largest_norm_is_refused_where_rows_of_it_are_frozen():
    for strategy in (STRATEGIES["rows"], STRATEGIES["random entries"], STRATEGIES["largest rows"]):
        with pytest.raises(ConfigurationError, match=r"`max_norm` .*Found `max_norm = 1.0` for `embedding.weight`"):
            for _ in steps_of(GradientEngine(Renormed(), strategy), Renormed(), [], range(1)):
                pass
    GradientEngine(Renormed(), TrainableRows({"head.weight": [0]}))
    GradientEngine(Renormed(), SparseMask(0.5, score="weight", exclude="embedding.*", exclude_head=False))


@cases("score", ["random", "weight"])
def test_a_density_of_one_freezes_nothing(score: str):
    after, _ = train(SparseMask(1.0, score=score, exclude_head=False), FUSED, 5)
    model = Tiny()
    stepping = FUSED(model.parameters())
    for step in range(5):
        stepping.zero_grad()
        torch.autograd.backward(loss_at(step, model))
        stepping.step()
    assert_same_bits(after, weights(model))
