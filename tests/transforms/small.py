"""A fixed small model, gradients by formula, strategies run on them, and their results compared."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparsegrad import GradientEngine, GradientTransform
from tests.layout import Layout
from tests.reference import Entries, Values, When

TOTAL_STEPS, SEED = 6, 11
WINDOWS = (0, 2, 5)  # the steps of the golden numbers
STEPS_PER_EPOCH = 2

Snapshot = dict[str, Tensor | None]  # the gradients of a model by name


class Block(nn.Module):
    """A transformer block with a fused projection; `permuted` registers the same parameters in another order."""

    attention: nn.MultiheadAttention
    norm: nn.LayerNorm
    output: nn.Linear

    def __init__(self, permuted: bool) -> None:
        super().__init__()
        children: dict[str, nn.Module] = {
            "attention": nn.MultiheadAttention(4, 2, batch_first=True),
            "norm": nn.LayerNorm(4),
            "output": nn.Linear(4, 4),
        }
        for name in reversed(children) if permuted else children:
            self.add_module(name, children[name])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        changed: Tensor = self.output(self.norm(x)).tanh()
        return x + changed


class Small(nn.Module):
    """Embeddings, two blocks, a final norm, a head that may be tied; and an empty and a 0-d parameter.

    Other arguments are for the next class in line, where this one is a part of a task.
    """

    def __init__(self, *, tied: bool = False, permuted: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.embeddings = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(Block(permuted) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        for name, parameter in self.named_parameters():
            parameter.data = (by_formula(name, parameter.numel(), 0) / 8).view(parameter.shape)
        if tied:
            self.head.weight = self.embeddings.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x)) * (1 + self.temperature) + self.empty.sum()
        return logits


def by_formula(name: str, count: int, step: int) -> Tensor:
    """Return numbers for a parameter that no rounding changes: multiples of 1/32 in (-2, 2), none of them zero."""
    start = sum(name.encode()) + 17 * step
    numbers = [(start + 37 * index) % 127 - 63 for index in range(count)]
    return torch.tensor([number or 5 for number in numbers], dtype=torch.float32) / 32


def layout_of(model: Small) -> Layout:
    """Return the structure of the model, written by hand, that the library has to find."""
    tied = model.head.weight is model.embeddings.weight
    depths: dict[str, frozenset[int]] = {}
    roles: dict[str, dict[str, int]] = {}
    for name, _ in model.named_parameters():
        if name.startswith("blocks."):
            depth = int(name.split(".")[1]) + 1
        else:
            depth = {"empty": 0, "embeddings": 0, "norm": 2, "head": 3, "temperature": 3}[name.split(".")[0]]
        depths[name] = frozenset({depth})
    if tied:
        depths["embeddings.weight"] = frozenset({0, 3})
        roles["embeddings.weight"] = {"embeddings.weight": 0, "head.weight": 3}
    parts = [("query", 4), ("key", 4), ("value", 4)]
    return Layout(
        shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        depths=depths,
        head=3,
        fused={name: parts for name in depths if name.endswith(("in_proj_weight", "in_proj_bias"))},
        roles=roles,
        weights=weights_of(model),
    )


def weights_of(model: nn.Module) -> dict[str, list[float]]:
    """Return the entries of all parameters as they stand."""
    return {name: parameter.detach().double().flatten().tolist() for name, parameter in model.named_parameters()}


def window_of(step: int) -> When:
    return When(step=step, epoch=step // STEPS_PER_EPOCH, total_steps=TOTAL_STEPS, seed=SEED)


# ---------------------------------------------------------------- running
def on_one_thread() -> Iterator[None]:
    """Limit torch to one thread, for a fixture: on tensors this small, more threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Still(Optimizer):
    """An optimizer whose step changes nothing, and by whose hooks strategies learn.

    Attributes:
        found_inf: As `GradScaler` sets it on a fused optimizer: above 0, the step has no effect; `None` without one.
    """

    found_inf: Tensor | None = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it calls none
        """Change nothing."""


_STILL: WeakKeyDictionary[GradientEngine, Still] = WeakKeyDictionary()


def engine_for(model: nn.Module, transform: GradientTransform) -> GradientEngine:
    """Return an engine, with an optimizer `Still` where strategies act on its steps."""
    engine = GradientEngine(model, transform, total_steps=TOTAL_STEPS, seed=SEED)
    if engine.acts_on_steps:
        still_of(engine)
    return engine


def still_of(engine: GradientEngine) -> Still:
    """Return the optimizer that steps after the windows of an engine; a copy of the engine has another."""
    if engine not in _STILL:
        _STILL[engine] = Still(engine.parameters.tensors.values(), {})
        engine.attach(_STILL[engine])
    return _STILL[engine]


def set_gradients(model: nn.Module, step: int, *, scale: float = 1.0) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = (by_formula(name, parameter.numel(), step) * scale).view(parameter.shape).to(parameter.dtype)


def fill_gradients(model: nn.Module, value: float = 1.0) -> None:
    """Give every parameter a gradient of one value."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


def trained(model: nn.Module) -> set[str]:
    """Return the names of the parameters that have a gradient."""
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def apply(
    engine: GradientEngine, step: int, *, loss_scale: float | Tensor | None = None, happens: bool | None = True
) -> None:
    """Apply the transform of an engine in one window, and step behind it.

    Args:
        engine: The engine.
        step: The step; `set_gradients` is for the same.
        loss_scale: By what the gradients are multiplied.
        happens: Whether the step has an effect, which of a fused optimizer a scaler decides; `None` for no step.
    """
    still = still_of(engine) if engine.acts_on_steps else None
    with engine.window(step, epoch=step // STEPS_PER_EPOCH):
        engine.apply_(loss_scale=torch.tensor(loss_scale) if isinstance(loss_scale, float) else loss_scale)
    if still is not None and happens is not None:
        still.found_inf = None if happens else torch.ones((), device=still.param_groups[0]["params"][0].device)
        still.step()


def snapshot(model: nn.Module) -> Snapshot:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def run(
    transform: GradientTransform, *, model: nn.Module | None = None, steps: Sequence[int] = WINDOWS
) -> dict[int, Snapshot]:
    """Apply a transform in a fresh engine to the gradients of the formula, and return those of each step."""
    model = Small() if model is None else model
    engine = engine_for(model, transform)
    done = {}
    for step in steps:
        set_gradients(model, step)
        apply(engine, step)
        done[step] = snapshot(model)
    return done


def bits(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor, which distinguish -0.0 from 0.0 and one NaN from another."""
    return tensor.contiguous().view(
        {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    )


def flat(value: Any) -> list[Any]:
    """Return the leaves of a state or of what a process wrote down, tensors as bytes."""
    if isinstance(value, Mapping):
        return [leaf for key in sorted(value) for leaf in (key, *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in flat(each)]
    return [bits(value).numpy().tobytes()] if isinstance(value, Tensor) else [value]


def assert_same_bits(actual: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        other = expected[name]
        if tensor is None or other is None:
            assert tensor is other, f"only one of the two dropped {name} whole"
        else:
            assert torch.equal(bits(tensor), bits(other)), name


# ---------------------------------------------------------------- the reference on a model
def values_of(actual: nn.Module | Snapshot, *, scale: float = 1.0) -> Values:
    """Return gradients for the reference, divided by a loss scale."""
    gradients = snapshot(actual) if isinstance(actual, nn.Module) else actual
    return {
        name: None if grad is None else Entries(tuple(grad.shape), (grad.double() / scale).flatten().tolist())
        for name, grad in gradients.items()
    }


def assert_equals_reference(actual: nn.Module | Snapshot, expected: Values) -> None:
    """Assert that the gradients of a model, or gradients by name, equal the reference."""
    tolerance = {
        torch.float64: (1e-6, 1e-9),
        torch.float32: (1e-5, 1e-7),
        torch.float16: (2e-3, 1e-6),
        torch.bfloat16: (1.6e-2, 1e-7),
    }
    for name, gradient in (snapshot(actual) if isinstance(actual, nn.Module) else actual).items():
        entries = expected[name]
        if entries is None or gradient is None:
            assert entries is None, f"{name} was dropped whole"
            assert gradient is None, f"{name} was not dropped whole"
            continue
        wanted = torch.tensor(entries.values, dtype=torch.float64).view(entries.shape).to(gradient.dtype)
        rtol, atol = tolerance[gradient.dtype]
        message = f"{name} is {gradient}, the reference says {wanted}"
        torch.testing.assert_close(gradient, wanted, rtol=rtol, atol=atol, equal_nan=True, msg=message)
