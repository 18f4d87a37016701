"""Real training of a tiny model of which some entries are frozen, and of the others alone."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from lightning_sparsegrad import GradientEngine, GradientTransform, SparseMask, TrainableRows
from tests.transforms.small import bits

TOKENS = 11
Weights = dict[str, Tensor]
Masks = Mapping[str, Tensor]  # by name, of the shape of the parameter: what trains
MakeOptimizer = Callable[[Any], torch.optim.Optimizer]

STRATEGIES: dict[str, GradientTransform] = {
    "rows": TrainableRows({"embedding.weight": [0, 3, 7], "head.bias": [1]}),
    "rows alone": TrainableRows({"embedding.weight": [3, 8]}, others="frozen"),
    "random entries": SparseMask(0.3, score="random", exclude_head=False),
    "largest rows": SparseMask(0.3, score="weight", structure="row", scope="tensor", exclude_head=False),
    "calibrated": SparseMask(0.2, exclude_head=False, calibration_windows=3),
}

OPTIMIZERS: dict[str, MakeOptimizer] = {  # that treat each entry by itself
    "AdamW, foreach": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, foreach=True),
    "AdamW, fused": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True),
    "Adam, amsgrad": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1, amsgrad=True),
    "SGD, nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, fused": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.001, momentum=0.9, centered=True, weight_decay=0.1),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.05, weight_decay=0.1),
    "Adadelta": partial(torch.optim.Adadelta, lr=0.5, weight_decay=0.1),
    "NAdam": partial(torch.optim.NAdam, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": partial(torch.optim.RAdam, lr=0.01, weight_decay=0.1),
    "Rprop": partial(torch.optim.Rprop, lr=0.001),
    "ASGD": partial(torch.optim.ASGD, lr=0.05, weight_decay=0.1, t0=5),
}
TOGETHER: dict[str, MakeOptimizer] = {  # whose update of an entry depends on others
    "Adafactor": partial(torch.optim.Adafactor, lr=0.05, weight_decay=0.1),
}
if hasattr(torch.optim, "Muon"):  # torch 2.9
    TOGETHER["Muon"] = lambda parameters: torch.optim.Muon(
        [parameter for parameter in parameters if parameter.ndim == 2], lr=0.01, weight_decay=0.1
    )


class Tiny(nn.Module):
    """Embeddings, a hidden layer, a head; a zero of each sign and some large weights among its entries."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.embedding = nn.Embedding(TOKENS, 4)
            self.hidden = nn.Linear(4, 6)
            self.head = nn.Linear(6, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.view(-1)[::5] = 0.0
                parameter.view(-1)[1::7] = -0.0
                parameter.view(-1)[2::9] *= 50

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.embedding(tokens)).tanh())
        return logits


def batch_at(step: int) -> tuple[Tensor, Tensor]:
    """Return tokens and labels of a step; most tokens are in none of it."""
    tokens = (torch.arange(6) * (step % 5 + 1) + step) % TOKENS
    return tokens, (tokens + step) % 3


def loss_at(step: int, logits: Callable[[Tensor], Tensor]) -> Tensor:
    tokens, labels = batch_at(step)
    return cross_entropy(logits(tokens).float(), labels)


def weights(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def masks_of(engine: GradientEngine) -> dict[str, Tensor]:
    """Return what trains of each parameter, after the first masked window."""
    model, held = engine.parameters.model, dict[str, Tensor]()
    for member in engine.transform.flattened():
        held |= getattr(member, "masks", {})
    whole = {name: torch.ones(parameter.shape, dtype=torch.bool) for name, parameter in model.named_parameters()}
    for name, mask in held.items():
        shape = mask.shape + (1,) * (whole[name].ndim - mask.ndim)
        whole[name] &= mask.view(shape)
    return whole


def steps_of(
    engine: GradientEngine, model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: range
) -> Iterator[int]:
    """Train, and yield each step once it is done."""
    for step in steps:
        for optimizer in optimizers:
            optimizer.zero_grad()
        with engine.window(step):
            torch.autograd.backward(loss_at(step, model))
            engine.apply_()
        for optimizer in optimizers:
            optimizer.step()
        yield step


def made(
    strategy: GradientTransform, optimizer: MakeOptimizer, dtype: torch.dtype = torch.float32
) -> tuple[Tiny, GradientEngine, torch.optim.Optimizer]:
    model = Tiny().to(dtype)
    engine = GradientEngine(model, strategy, seed=4)
    steps = optimizer(model.parameters())
    engine.attach(steps)
    return model, engine, steps


def train(
    strategy: GradientTransform, optimizer: MakeOptimizer, steps: int, dtype: torch.dtype = torch.float32
) -> tuple[Weights, Masks]:
    """Train a fresh model; return its weights and what trained."""
    model, engine, stepping = made(strategy, optimizer, dtype)
    for _ in steps_of(engine, model, [stepping], range(steps)):
        pass
    return weights(model), masks_of(engine)


def train_alone(masks: Masks, optimizer: MakeOptimizer, steps: range, dtype: torch.dtype = torch.float32) -> Weights:
    """Train the entries of a mask as parameters of their own, which are scattered into the model."""
    model = Tiny().to(dtype)
    frozen = weights(model)
    trained = {name: nn.Parameter(frozen[name][mask]) for name, mask in masks.items() if mask.any()}

    def whole() -> Weights:
        scattered = {name: frozen[name].masked_scatter(masks[name], entries) for name, entries in trained.items()}
        return {**frozen, **scattered}

    stepping = optimizer(trained.values())
    for step in steps:
        stepping.zero_grad()
        torch.autograd.backward(loss_at(step, lambda tokens: functional_call(model, whole(), (tokens,))))
        stepping.step()
    return {name: weight.detach() for name, weight in whole().items()}


def assert_frozen(now: Weights, before: Weights, masks: Masks) -> None:
    """Assert that no bit of what a mask freezes has changed, and that some of the rest has moved."""
    frozen = moved = 0
    for name, mask in masks.items():
        same = bits(now[name]) == bits(before[name])
        assert same[~mask].all(), f"{name} moved where it is frozen: {int((~same & ~mask).sum())} entries"
        frozen += int((~mask).sum())
        moved += int((~same & mask).sum())
    assert frozen
    assert moved
