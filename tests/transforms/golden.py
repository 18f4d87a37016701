"""A fixed small model, gradients by formula, and what every strategy makes of them: one golden row each, or more.

A new strategy adds a row; `python -m tests.transforms.golden` prints the numbers of all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import inf

import torch
from torch import Tensor, nn

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
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
from tests import reference
from tests.reference import Entries, Layout, Reference, Values, When

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
    """Embeddings, two blocks, a final norm, a head that may be tied; and an empty and a 0-d parameter."""

    def __init__(self, *, tied: bool = False, permuted: bool = False) -> None:
        super().__init__()
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
    """Return numbers for a parameter that no rounding touches: multiples of 1/32 in (-2, 2), none of them zero."""
    start = sum(name.encode()) + 17 * step
    numbers = [(start + 37 * index) % 127 - 63 for index in range(count)]
    return torch.tensor([number or 5 for number in numbers], dtype=torch.float32) / 32


def layout_of(model: Small) -> Layout:
    """Return by hand what the library has to find in the model."""
    tied = model.head.weight is model.embeddings.weight
    depths = {}
    for name, _ in model.named_parameters():
        if name.startswith("blocks."):
            depth = int(name.split(".")[1]) + 1
        else:
            depth = {"empty": 0, "embeddings": 0, "norm": 2, "head": 3, "temperature": 3}[name.split(".")[0]]
        depths[name] = frozenset({depth})
    if tied:
        depths["embeddings.weight"] = frozenset({0, 3})
    parts = [("query", 4), ("key", 4), ("value", 4)]
    return Layout(
        shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        depths=depths,
        head=3,
        fused={name: parts for name in depths if name.endswith(("in_proj_weight", "in_proj_bias"))},
    )


def window_of(step: int) -> When:
    return When(step=step, epoch=step // STEPS_PER_EPOCH, total_steps=TOTAL_STEPS, seed=SEED)


# ---------------------------------------------------------------- running
def on_one_thread() -> Iterator[None]:
    """Hold torch to one thread, for a fixture: on tensors this small, handing work over takes longer than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def engine_for(model: nn.Module, transform: GradientTransform) -> GradientEngine:
    return GradientEngine(model, transform, total_steps=TOTAL_STEPS, seed=SEED)


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


def apply(engine: GradientEngine, step: int, *, loss_scale: float | None = None) -> None:
    scale = None if loss_scale is None else torch.tensor(loss_scale)
    with engine.window(step, epoch=step // STEPS_PER_EPOCH):
        engine.apply_(loss_scale=scale)


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
    """Return a tensor's bits, which tell -0.0 from 0.0 and one undefined number from another."""
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_same_bits(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        other = expected[name]
        if tensor is None or other is None:
            assert tensor is other, f"only one of the two dropped {name} whole"
        else:
            assert torch.equal(bits(tensor), bits(other)), name


# ---------------------------------------------------------------- the reference on a model
def values_of(model: nn.Module) -> Values:
    return {
        name: None if p.grad is None else Entries(tuple(p.grad.shape), p.grad.double().flatten().tolist())
        for name, p in model.named_parameters()
    }


def assert_equals_reference(model: nn.Module, expected: Values) -> None:
    tolerance = {
        torch.float64: (1e-6, 1e-9),
        torch.float32: (1e-5, 1e-7),
        torch.float16: (2e-3, 1e-6),
        torch.bfloat16: (1.6e-2, 1e-7),
    }
    for name, parameter in model.named_parameters():
        entries, gradient = expected[name], parameter.grad
        if entries is None or gradient is None:
            assert entries is None, f"{name} was dropped whole"
            assert gradient is None, f"{name} was not dropped whole"
            continue
        wanted = torch.tensor(entries.values, dtype=torch.float64).view(entries.shape).to(gradient.dtype)
        rtol, atol = tolerance[gradient.dtype]
        message = f"{name} is {gradient}, the reference says {wanted}"
        torch.testing.assert_close(gradient, wanted, rtol=rtol, atol=atol, equal_nan=True, msg=message)


# ---------------------------------------------------------------- golden rows
@dataclass(frozen=True)
class Golden:
    """What a strategy makes of the formula's gradients.

    Args:
        transform: The strategy, with arguments.
        sums: For each of `WINDOWS`, the sum of all entries left, each times its position (see `weighted_sum`).
        dropped: For each of `WINDOWS`, how many tensors end without a gradient.
        does: The same as a slow reference.
    """

    transform: GradientTransform
    sums: tuple[float, ...]
    dropped: tuple[int, ...] = (0, 0, 0)
    does: Reference | None = None

    def __str__(self) -> str:
        return repr(self.transform)


def weighted_sum(gradients: Mapping[str, Tensor | None]) -> float:
    """Return the sum of all entries, weighted by place so that no two can change theirs unseen."""
    total = 0.0
    for name, gradient in gradients.items():
        if gradient is not None:
            places = torch.arange(1, gradient.numel() + 1, dtype=torch.float64) + sum(name.encode()) % 31
            total += float((gradient.double().flatten() * places).sum())
    return total


def _half_way(progress: float, height: float) -> float:
    return 0.8 - 0.6 * progress


def _top_down(progress: float, height: float) -> float:
    return 1 - min(1.0, max(0.0, 1 - (1 - height - progress) / 0.5))


def _joined(when: When) -> float:
    return when.progress * 4


def _rows() -> Iterator[Golden]:
    ref = reference
    yield Golden(Identity(), (-247.03125, 84.0625, -465.34375), does=ref.keep_all)
    yield Golden(GradDrop(0.5), (-377.40625, 288.78125, 232.5625), does=ref.drop_entries(0.5))
    yield Golden(
        GradDrop(0.25, rescale=True, resample_every="epoch", exclude="*.norm.*", seed=3),
        (279.093777, 23.2187473, -174.854162),
        does=ref.drop_entries(
            0.25,
            rescale=True,
            every="epoch",
            seed=3,
            leave=[f"blocks.{i}.norm.{kind}" for i in range(2) for kind in ("weight", "bias")],
        ),
    )
    yield Golden(
        GradDrop(0.5, granularity="row", resample_every=None),
        (-481.8125, 211.34375, -32.9375),
        does=ref.drop_entries(0.5, by_row=True, every=None),
    )
    yield Golden(
        GradDrop(0.5, granularity="tensor", rescale=True),
        (-199.125, 171.8125, -701.125),
        (13, 14, 11),
        does=ref.drop_units(0.5, "tensor", rescale=True),
    )
    yield Golden(
        GradDrop(0.6, granularity="component"),
        (-117.125, 124.1875, -382.59375),
        (13, 15, 12),
        does=ref.drop_units(0.6, "projection"),
    )
    yield Golden(
        GradDrop(0.5, granularity="component", components="block", resample_every=2),
        (-240.125, -40.40625, -369.125),
        (2, 15, 3),
        does=ref.drop_units(0.5, "block", every=2),
    )
    yield Golden(GradDrop(Linear(0.8, 0.2)), (-35.3125, 442.09375, -95.375), does=ref.drop_entries(_half_way))
    yield Golden(
        GradDrop(TopDown(1.0, 0.0, width=0.5)),
        (-84.6875, 318.6875, -465.34375),
        (10, 2, 0),
        does=ref.drop_entries(_top_down),
    )
    yield Golden(LayerGradDrop(0.5), (-113.75, 104.125, -260.875), (10, 10, 10), does=ref.drop_layers(0.5))
    yield Golden(
        LayerGradDrop(Linear(0.8, 0.2), resample_every=None, seed=5),
        (-16.625, 68.53125, -465.34375),
        (20, 20, 0),
        does=ref.drop_layers(_half_way, every=None, seed=5),
    )
    yield Golden(GradualUnfreezing(), (-16.625, 104.125, -465.34375), (20, 10, 0), does=ref.unfreeze(_joined))
    yield Golden(
        GradualUnfreezing(unfreeze_every="epoch"),
        (-16.625, 104.125, -426.3125),
        (20, 10, 2),
        does=ref.unfreeze(lambda when: when.epoch),
    )
    yield Golden(HeadOnly(), (-16.625, 68.53125, -96.21875), (20, 20, 20), does=ref.head_only)
    yield Golden(ComponentNormClip(0.5), (-31.4195645, 10.7838749, -62.6488448), does=ref.clip_norms(0.5, "projection"))
    yield Golden(
        ComponentNormClip(1.0, components="tensor", norm_type=inf),
        (-135.539796, 46.7540873, -241.124191),
        does=ref.clip_norms(1.0, "tensor", norm_type=inf),
    )
    yield Golden(
        ComponentNormClip(2.0, components="block", overrides={"head": 0.25, "embeddings": inf}),
        (-43.8532384, 21.8229255, -96.8965109),
        does=ref.clip_norms(2.0, "block", overrides={"head": 0.25, "embeddings": inf}),
    )
    yield Golden(
        ComponentNormClip(1.5, components="module"),
        (-59.4518632, 25.1168683, -116.477857),
        does=ref.clip_norms(1.5, "module"),
    )
    yield Golden(GlobalNormClip(3.0), (-37.8994446, 13.0982829, -71.9057779), does=ref.clip_norms(3.0, "all"))
    yield Golden(ValueClip(0.75), (-76.5625, 45.34375, -167.96875), does=ref.clip_values(0.75))
    yield Golden(
        Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.5)}),
        (-78.2000154, 32.7657042, 34.8473251),
        does=ref.in_order(ref.drop_entries(0.5), ref.clip_norms(0.5, "projection")),
    )
    yield Golden(
        Chain([GlobalNormClip(3.0), Chain({"layers": LayerGradDrop(0.5), "entries": GradDrop(0.5)}), ValueClip(0.1)]),
        (-2.18427681, 13.7316526, 18.0798821),
        (10, 10, 10),
        does=ref.in_order(
            ref.clip_norms(3.0, "all"), ref.drop_layers(0.5), ref.drop_entries(0.5), ref.clip_values(0.1)
        ),
    )


GOLDEN = tuple(_rows())


def digests() -> list[str]:
    """Return a hash of every row's gradients, bit by bit."""
    found = []
    for row in GOLDEN:
        digest = blake2b()
        for gradients in run(row.transform).values():
            for name, gradient in sorted(gradients.items()):
                numbers = None if gradient is None else bits(gradient).flatten().tolist()
                digest.update(f"{name}: {numbers}".encode())
        found.append(digest.hexdigest())
    return found


def print_numbers() -> None:
    """Print the numbers of every row."""
    for row in GOLDEN:
        done = run(row.transform).values()
        sums = ", ".join(f"{weighted_sum(gradients):.9g}" for gradients in done)
        dropped = tuple(sum(gradient is None for gradient in gradients.values()) for gradients in done)
        print(f"{row}: ({sums}), {dropped}")  # noqa: T201


if __name__ == "__main__":
    print_numbers()
