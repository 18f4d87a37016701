"""A law, what all laws run on, and how they compare."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from lightning_sparsegrad import GradientEngine, GradientTransform, transforms

Law = Callable[[torch.device], str]
Make = Callable[[], GradientTransform]
Snapshot = dict[str, Tensor | None]

TOTAL_STEPS, SEED, WIDTH, TOKENS = 12, 7, 32, 400
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WITHOUT_DEFAULT: dict[str, Mapping[str, Any]] = {  # the arguments of strategies that cannot do without
    "AdaGC": {"warmup_steps": 2, "max_norm": 0.5},
    "AutoClip": {"history": 4},
    "Chain": {"transforms": [transforms.GradDrop(0.3), transforms.ComponentNormClip(0.5)]},
    "ComponentNormClip": {"max_norm": 0.5},
    "GlobalNormClip": {"max_norm": 0.5},
    "GradDrop": {"rate": 0.3},
    "LayerGradDrop": {"rate": 0.5},
    "SparseMask": {"density": 0.5, "calibration_windows": 1},
    "SpikeSkip": {"warmup_steps": 2, "history": 4},
    "TrainableRows": {"rows": {"embeddings.weight": [0, 3, 5]}},
    "ValueClip": {"max_value": 0.01},
    "ZClip": {"warmup_steps": 2, "max_norm": 0.5},
}


class UnsupportedError(Exception):
    """A law cannot be checked here."""


def every_strategy() -> dict[str, Make]:
    """Return how to make each exported strategy, by its name.

    Raises:
        AssertionError: If one needs an argument that is not listed here.
    """
    made: dict[str, Make] = {}
    for name in sorted(transforms.__all__):
        kind = getattr(transforms, name)
        if not (inspect.isclass(kind) and issubclass(kind, GradientTransform)) or inspect.isabstract(kind):
            continue
        required = [
            parameter.name
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        ]
        arguments = _WITHOUT_DEFAULT.get(name, {})
        missing = [parameter for parameter in required if parameter not in arguments]
        assert not missing, f"{name} needs {missing}: list them in {__name__}"
        made[name] = partial(kind, **arguments)
    return made


class Block(nn.Module):
    """A block with a projection of three, a norm and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next hidden states."""
        with sdpa_kernel(SDPBackend.MATH):  # the others add up in any order
            x = x + self.attention(x, x, x, need_weights=False)[0]
        changed: Tensor = self.output(self.norm(x)).tanh()
        return x + changed


class Small(nn.Module):
    """A model with all that a strategy looks for: embeddings, blocks, norms, a head; and a 0-d and an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.embeddings = nn.Embedding(TOKENS, WIDTH)  # large enough for the compiled kernel
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each token."""
        x = self.embeddings(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x)) * (1 + self.temperature) + self.empty.sum()
        return logits


def small(device: torch.device, dtype: torch.dtype = torch.float32) -> Small:
    """Return the model with weights that are the same everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Small()
    return model.to(device, dtype)


def engine_for(model: nn.Module, transform: GradientTransform, **options: Any) -> GradientEngine:
    """Return an engine of some steps."""
    return GradientEngine(model, transform, total_steps=TOTAL_STEPS, seed=SEED, **options)


def tokens_of(step: int, device: torch.device) -> Tensor:
    """Return the batch of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(TOKENS, (4, 9), generator=generator).to(device)


def loss_of(model: nn.Module, step: int, device: torch.device) -> Tensor:
    """Return the loss of the batch of a step."""
    tokens = tokens_of(step, device)
    return nn.functional.cross_entropy(model(tokens).float().flatten(0, 1), tokens.flatten() % 7)


def set_gradients(model: nn.Module, step: int, *, scale: float = 1.0) -> None:
    """Give each parameter that trains a gradient that is the same on every device: no entry is zero."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        numbers = torch.randint(1, 64, parameter.shape, generator=generator).float()
        signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
        if parameter.requires_grad:
            parameter.grad = (numbers * signs * (scale / 64)).to(parameter.device, parameter.dtype)


def train(engine: GradientEngine, optimizer: Optimizer, steps: Sequence[int], device: torch.device) -> None:
    """Train the model of an engine."""
    for step in steps:
        with engine.window(step, epoch=step // 2):
            loss_of(engine.parameters.model, step, device).backward()  # type: ignore[no-untyped-call]
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()


def adamw(model: nn.Module, **options: Any) -> Optimizer:
    """Return an optimizer with momentum and decay, which would move what should not."""
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, **options)


def weights_of(model: nn.Module) -> Snapshot:
    """Return copies of the weights on the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}


def gradients_of(model: nn.Module) -> Snapshot:
    """Return copies of the gradients on the CPU."""
    return {name: None if p.grad is None else p.grad.cpu().clone() for name, p in model.named_parameters()}


def differing(one: Mapping[str, Tensor | None], other: Mapping[str, Tensor | None]) -> list[str]:
    """Return how many bits differ, for each tensor in which some do."""
    differences = []
    for name, left in one.items():
        right = other[name]
        if left is None or right is None:
            differences += [f"{name}: only one is dropped"] * (left is not right)
        elif (number := entries_apart(left, right)) > 0:
            differences.append(f"{name}: {number} of {left.numel()}")
    return differences


def entries_apart(one: Tensor, other: Tensor) -> int:
    """Return the number of entries whose bits differ."""
    left, right = (tensor.cpu().contiguous().view(_BITS[tensor.element_size()]) for tensor in (one, other))
    return int((left != right).sum())
