"""GradientEngine in a plain PyTorch loop: windows, freezing, loss scale, state."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.functional import cross_entropy

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
    Linear,
    TopDown,
    ValueClip,
)
from tests.transforms.golden import (
    Small,
    assert_same_bits,
    bits,
    fill_gradients,
    on_one_thread,
    set_gradients,
    snapshot,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

BOTH = Chain([GradDrop(0.5), ComponentNormClip(0.05)])


def _tokens(step: int, count: int = 4) -> Tensor:
    return ((torch.arange(count * 5) * (step + 2) + step) % 7).view(count, 5)


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, dims=1).flatten())


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# ---------------------------------------------------------------- windows
def test_a_window_without_apply_is_an_error_and_the_next_one_works():
    engine = GradientEngine(Small(), Identity())
    message = r"GradientEngine.apply_\(\) should be called once before a window ends. Found no call."
    with pytest.raises(RuntimeError, match=message), engine.window(0):
        pass
    with engine.window(0):
        engine.apply_()


def test_a_second_apply_is_an_error_and_leaves_the_gradients_of_the_first():
    model = Small()
    engine = GradientEngine(model, GradDrop(0.5, rescale=True))
    message = r"GradientEngine.apply_\(\) should be called once. Found two calls at step 3."
    set_gradients(model, 0)
    with engine.window(3):
        engine.apply_()
        before = snapshot(model)
        with pytest.raises(RuntimeError, match=message):
            engine.apply_()
    assert_same_bits(snapshot(model), before)


def test_apply_outside_a_window_is_an_error():
    engine = GradientEngine(Small(), Identity())
    message = r"GradientEngine.apply_\(\) should be called inside a window. Found none open."
    with pytest.raises(RuntimeError, match=message):
        engine.apply_()
    with engine.window(0):
        engine.apply_()
    with pytest.raises(RuntimeError, match=message):
        engine.apply_()


def test_a_window_inside_a_window_is_an_error_and_the_outer_one_goes_on():
    engine = GradientEngine(Small(), Identity())
    with engine.window(4):
        with (
            pytest.raises(RuntimeError, match=r"has a window open already. Found step 4, opening 5\."),
            engine.window(5),
        ):
            pass
        assert engine.current is not None
        assert engine.current.step == 4
        engine.apply_()
    assert engine.current is None


def test_an_exception_inside_a_window_is_not_masked_and_the_next_window_works():
    engine = GradientEngine(Small(), Identity())
    with pytest.raises(KeyError) as raised, engine.window(0):
        raise KeyError("a fault of the loop")
    assert raised.value.__context__ is None
    assert engine.current is None
    with engine.window(0):
        engine.apply_()


def test_an_exception_inside_apply_leaves_the_engine_usable():
    model = Small()
    engine = GradientEngine(model, GradDrop(0.5, resample_every="epoch"))
    set_gradients(model, 0)
    before = snapshot(model)
    with pytest.raises(ConfigurationError, match="Parameter `epoch` of the window should be given"), engine.window(0):
        engine.apply_()
    assert_same_bits(snapshot(model), before)
    with engine.window(0, epoch=0):
        engine.apply_()
    assert engine.applied


def test_a_window_says_where_training_stands():
    engine = GradientEngine(Small(), Identity(), total_steps=5, seed=9)
    with engine.window(1, epoch=2) as window:
        engine.apply_()
    assert (window.step, window.epoch, window.total_steps, window.seed, window.progress) == (1, 2, 5, 9, 0.25)


@pytest.mark.parametrize(
    ("step", "total", "progress"),
    [(0, 11, 0.0), (7, 11, 0.7), (10, 11, 1.0), (12, 11, 1.0), (0, 1, 0.0), (5, None, 0.0)],
    ids=str,
)
def test_progress_runs_from_the_first_step_to_the_last_and_stays_there(step: int, total: int | None, progress: float):
    engine = GradientEngine(Small(), Identity(), total_steps=total)
    with engine.window(step) as window:
        engine.apply_()
    assert window.progress == progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "Parameter `step` should be a non-negative integer. Found `step = -1`."),
        ({"step": 1.0}, "Parameter `step` should be a non-negative integer. Found `step = 1.0`."),
        ({"step": True}, "Parameter `step` should be a non-negative integer. Found `step = True`."),
        ({"step": None}, "Parameter `step` should be a non-negative integer. Found `step = None`."),
        ({"step": 0, "epoch": -2}, "Parameter `epoch` should be a non-negative integer. Found `epoch = -2`."),
        ({"step": 0, "epoch": "1"}, "Parameter `epoch` should be a non-negative integer. Found `epoch = '1'`."),
    ],
    ids=str,
)
def test_a_window_that_is_nowhere_in_training_is_refused(arguments: dict[str, Any], message: str):
    engine = GradientEngine(Small(), Identity())
    with pytest.raises(ConfigurationError) as refused, engine.window(**arguments):
        pass
    assert str(refused.value) == message
    assert engine.current is None


def test_what_accumulates_inside_a_window_equals_one_big_batch():
    found, tokens = [], _tokens(1, count=8)
    for pieces in (1, 4):
        model = Small()
        engine = GradientEngine(model, BOTH, seed=3)
        with engine.window(2):
            for piece in tokens.chunk(pieces):
                _backward(_loss(model, piece) / pieces)
            engine.apply_()
        found.append(snapshot(model))
    for name, gradient in found[0].items():
        other = found[1][name]
        assert gradient is not None
        assert other is not None
        assert torch.equal(gradient == 0, other == 0), name
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-7, msg=name)


# ---------------------------------------------------------------- frozen means frozen
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
    "fused AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
}
DROPPING: dict[str, GradientTransform] = {
    "LayerGradDrop": LayerGradDrop(0.5),
    "GradualUnfreezing": GradualUnfreezing(unfreeze_every=2),
    "HeadOnly": HeadOnly(),
    "GradDrop of tensors": GradDrop(0.5, granularity="tensor"),
    "GradDrop of components": GradDrop(0.6, granularity="component"),
    "GradDrop of entries, all": GradDrop(1.0, include="blocks.*"),
    "GradDrop of rows, all": GradDrop(1.0, granularity="row", exclude="head.*"),
    "GradDrop from the top down": GradDrop(TopDown()),
    "Chain": Chain([LayerGradDrop(0.5), GlobalNormClip(1.0), GradDrop(0.5)]),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("transform", DROPPING.values(), ids=DROPPING)
@pytest.mark.parametrize("set_to_none", [True, False], ids=["to None", "to zero"])
def test_weights_stay_bit_for_bit_while_their_tensor_is_dropped_whole(
    optimizer: Any, transform: GradientTransform, set_to_none: bool
):
    model, frozen, moved = Small(), 0, 0
    steps = optimizer(model.parameters())
    engine = GradientEngine(model, transform, total_steps=8, seed=5)
    for step in range(8):
        with engine.window(step):
            _backward(_loss(model, _tokens(step)))
            engine.apply_()
        before = _weights(model)
        steps.step()
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                assert torch.equal(bits(parameter.detach()), bits(before[name])), f"{name} moved while it was dropped"
                frozen += 1
            elif parameter.grad.abs().sum() > 0:
                assert not torch.equal(parameter, before[name]), f"{name} did not move"
                moved += 1
        steps.zero_grad(set_to_none=set_to_none)
    assert frozen > 8
    assert moved > 8


def test_weights_move_by_decay_where_single_entries_are_dropped():
    model = nn.Linear(20, 20, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    engine = GradientEngine(model, GradDrop(0.5))
    fill_gradients(model)
    with engine.window(0):
        engine.apply_()
    assert model.weight.grad is not None
    dropped, before = model.weight.grad == 0, model.weight.detach().clone()
    optimizer.step()
    assert 100 < int(dropped.sum()) < 300
    torch.testing.assert_close(model.weight.detach()[dropped], before[dropped] * 0.95)
    torch.testing.assert_close(model.weight.detach()[~dropped], before[~dropped] * 0.95 - 0.5)


# ---------------------------------------------------------------- fp16
FP16 = [
    Identity(),
    BOTH,
    Chain([LayerGradDrop(0.5), GlobalNormClip(0.02)]),
    Chain([ValueClip(1e-3), GradDrop(0.5, rescale=True)]),
]


@pytest.mark.parametrize("transform", FP16, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_scaled_gradients_with_their_scale_give_the_weights_of_the_run_without(
    transform: GradientTransform, optimizer: Any
):
    plain, scaled = Small(), Small()
    runs = [
        (model, optimizer(model.parameters()), GradientEngine(model, transform, seed=1)) for model in (plain, scaled)
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    for step in range(5):
        for model, steps, engine in runs:
            steps.zero_grad()
            with engine.window(step):
                loss = _loss(model, _tokens(step))
                if model is plain:
                    _backward(loss)
                    engine.apply_()
                    steps.step()
                else:
                    _backward(scaler.scale(loss))
                    engine.apply_(loss_scale=scaler.scale(torch.ones(())))
                    scaler.step(steps)
                    scaler.update()
    assert scaler.get_scale() == 2.0**14
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(scaled.get_parameter(name), parameter, rtol=1e-5, atol=1e-7, msg=name)


OVERFLOWN = [Identity(), GradDrop(0.9), GradDrop(0.9, granularity="row"), ValueClip(0.1), GlobalNormClip(0.1), BOTH]


@pytest.mark.parametrize("transform", OVERFLOWN, ids=str)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")], ids=str)
def test_an_overflow_is_seen_by_the_scaler_also_where_a_mask_drops_it(transform: GradientTransform, bad: float):
    model = Small()
    engine = GradientEngine(model, transform)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for place in range(0, model.embeddings.weight.numel(), 3):
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        _backward(scaler.scale(_loss(model, _tokens(0))))
        assert model.embeddings.weight.grad is not None
        model.embeddings.weight.grad.view(-1)[place] = bad
        with engine.window(0):
            engine.apply_(loss_scale=scaler.scale(torch.ones(())))
        before = _weights(model)
        scaler.step(optimizer)
        scaler.update()
        assert_same_bits(_weights(model), before)
        assert scaler.get_scale() == 128.0
        optimizer.zero_grad()


def test_an_overflow_in_what_is_dropped_whole_does_not_count():
    model = Small()
    engine = GradientEngine(model, HeadOnly())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    _backward(scaler.scale(_loss(model, _tokens(0))))
    assert model.embeddings.weight.grad is not None
    model.embeddings.weight.grad.fill_(float("inf"))
    with engine.window(0):
        engine.apply_(loss_scale=scaler.scale(torch.ones(())))
    before = _weights(model)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 256.0
    assert not torch.equal(model.head.weight, before["head.weight"])
    assert torch.equal(model.embeddings.weight, before["embeddings.weight"])


def test_everything_dropped_is_an_error_under_a_loss_scale_only():
    model = Small()
    engine = GradientEngine(model, GradDrop(1.0))
    set_gradients(model, 0)
    with engine.window(0):
        engine.apply_()
    assert all(parameter.grad is None for parameter in model.parameters())
    set_gradients(model, 0)
    message = (
        r"`GradDrop\(rate=1\)` should keep a gradient under loss scaling, or the scaler finds none to check. "
        r"Found all dropped at step 7\."
    )
    with pytest.raises(ConfigurationError, match=message), engine.window(7):
        engine.apply_(loss_scale=torch.tensor(8.0))


# ---------------------------------------------------------------- state
def test_the_state_restores_the_seed_of_the_run_that_goes_on():
    model = Small()
    first, second = GradientEngine(model, GradDrop(0.5), seed=4), GradientEngine(model, GradDrop(0.5), seed=5)
    found = []
    for engine in (first, second):
        set_gradients(model, 0)
        with engine.window(0):
            engine.apply_()
        found.append(snapshot(model))
    second.load_state_dict(first.state_dict())
    assert second.seed == 4
    set_gradients(model, 0)
    with second.window(0):
        second.apply_()
    assert_same_bits(snapshot(model), found[0])
    with pytest.raises(AssertionError):
        assert_same_bits(found[0], found[1])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"transform": {}}, "Parameter `state` should hold a `seed`. Found keys ['transform']."),
        ({"seed": -1}, "Parameter `seed` should be a non-negative integer. Found `seed = -1`."),
        ({"seed": "4"}, "Parameter `seed` should be a non-negative integer. Found `seed = '4'`."),
    ],
    ids=str,
)
def test_a_state_without_a_seed_is_refused(state: dict[str, Any], message: str):
    engine = GradientEngine(Small(), Identity(), seed=2)
    with pytest.raises(ConfigurationError) as refused:
        engine.load_state_dict(state)
    assert str(refused.value) == message
    assert engine.seed == 2


RESUMED = [
    BOTH,
    Chain([LayerGradDrop(0.5), GlobalNormClip(0.5), GradDrop(Linear(0.8, 0.2), resample_every=3)]),
    Chain([GradualUnfreezing(), GradDrop(0.5, granularity="component", resample_every="epoch"), ValueClip(0.01)]),
]


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, engine: GradientEngine, steps: range
) -> dict[str, Tensor]:
    for step in steps:
        with engine.window(step, epoch=step // 3):
            _backward(_loss(model, _tokens(step)))
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()
    return _weights(model)


@pytest.mark.parametrize("transform", RESUMED, ids=str)
@pytest.mark.parametrize("border", [1, 4, 7], ids=str)
def test_a_resumed_loop_equals_the_one_that_never_stopped(transform: GradientTransform, border: int):
    model = Small()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    engine = GradientEngine(model, transform, total_steps=8, seed=6)
    start = _weights(model)
    _train(model, optimizer, engine, range(border))
    file = BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), engine.state_dict()], file)
    expected = _train(model, optimizer, engine, range(border, 8))
    file.seek(0)
    states = torch.load(file, weights_only=True)

    torch.rand(100)  # the global random state is elsewhere by now
    resumed = Small()
    optimizer = OPTIMIZERS["AdamW"](resumed.parameters())
    engine = GradientEngine(resumed, transform, total_steps=8, seed=99)
    parts: list[Any] = [resumed, optimizer, engine]
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    assert_same_bits(_train(resumed, optimizer, engine, range(border, 8)), expected)
    assert not torch.equal(expected["head.weight"], start["head.weight"])


def test_one_transform_may_serve_two_engines():
    transform = Chain([GradDrop(0.5), LayerGradDrop(0.5), GlobalNormClip(0.5)])
    small, other = Small(), nn.ModuleDict({"inner": Small()})
    first, second = GradientEngine(small, transform, seed=1), GradientEngine(other, transform, seed=2)
    alone = GradientEngine(small, deepcopy(transform), seed=1)
    found = []
    for engine in (first, alone):
        set_gradients(small, 0)
        set_gradients(other, 3)
        with engine.window(0), second.window(1):
            second.apply_()
            engine.apply_()
        found.append(snapshot(small))
        assert engine.statistics.keys() == second.statistics.keys()
        assert float(engine.statistics["norm_before/all"]) != float(second.statistics["norm_before/all"])
    assert_same_bits(*found)


# ---------------------------------------------------------------- models
@pytest.fixture
def process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # not in torch's own list of names
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Wrapper(nn.Module):
    """What `torch.compile` makes of a module, as far as names go."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


@pytest.mark.parametrize("wrap", [nn.parallel.DistributedDataParallel, Wrapper], ids=["DDP", "compile"])
@pytest.mark.usefixtures("process_group")
def test_names_and_masks_do_not_depend_on_a_wrapper(wrap: Callable[[nn.Module], nn.Module]):
    transform = Chain([GradDrop(0.5, include="head.*"), LayerGradDrop(0.5), ComponentNormClip(0.1)])
    found = []
    for wrapped in (False, True):
        model = Small()
        engine = GradientEngine(wrap(model) if wrapped else model, transform)
        set_gradients(model, 0)
        with engine.window(1):
            engine.apply_()
        found.append(snapshot(model))
        assert "norm_before/head.weight" in engine.statistics
    assert_same_bits(*found)


@pytest.mark.usefixtures("process_group")
def test_sharded_parameters_are_refused():
    model, mesh = nn.Linear(4, 4), init_device_mesh("cpu", (1,))
    model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)]))
    with pytest.raises(ConfigurationError, match=r"should be whole on each device. Found `weight` sharded\."):
        GradientEngine(model, Identity())


def test_sparse_gradients_are_refused_by_name():
    model = nn.ModuleDict({"words": nn.Embedding(5, 2, sparse=True), "head": nn.Linear(2, 1)})
    engine = GradientEngine(model, Identity())
    model["head"](model["words"](torch.tensor([1, 3]))).sum().backward()
    message = r"Gradients should be dense. Found a sparse gradient of `words.weight`\."
    with pytest.raises(ConfigurationError, match=message), engine.window(0):
        engine.apply_()
    assert engine.current is None


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no transform": (
        None,
        {},
        "Parameter `transform` should be a gradient transform, `Identity()` for none. Found `None`.",
    ),
    "a class": (
        Identity,
        {},
        "Parameter `transform` should be a gradient transform, `Identity()` for none. "
        "Found `<class 'lightning_sparsegrad.transforms.identity.Identity'>`.",
    ),
    **{
        f"total_steps = {value!r}": (
            Identity(),
            {"total_steps": value},
            f"Parameter `total_steps` should be a positive integer. Found `total_steps = {value!r}`.",
        )
        for value in (0, -5, 2.5, True, "10", float("nan"))
    },
    **{
        f"seed = {value!r}": (
            Identity(),
            {"seed": value},
            f"Parameter `seed` should be a non-negative integer. Found `seed = {value!r}`.",
        )
        for value in (-1, 0.5, True, None)
    },
}


@pytest.mark.parametrize(("transform", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_an_argument_outside_its_range_is_refused(transform: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(Small(), transform, **arguments)
    assert str(refused.value) == message


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ConfigurationError, match=r"`model` should have parameters. Found `ReLU` without\."):
        GradientEngine(nn.ReLU(), Identity())


def test_a_plain_loop_loads_torch_alone():
    code = """
import sys, torch
from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientEngine
model = torch.nn.Linear(3, 2)
engine = GradientEngine(model, Chain([GradDrop(0.5), ComponentNormClip(0.1)]), total_steps=10)
with engine.window(0):
    model(torch.ones(1, 3)).sum().backward()
    engine.apply_()
assert float(engine.statistics["kept"]) < 1
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert loaded.isdisjoint(
        {"lightning", "pytorch_lightning", "transformers", "datasets", "torchmetrics", "jsonargparse"}
    )
