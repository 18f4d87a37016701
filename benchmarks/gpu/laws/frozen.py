"""Laws of what does not change: frozen weights, the weights of a run that skips work, and of one that resumes."""

from io import BytesIO
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.laws._law import (
    TOTAL_STEPS,
    adamw,
    differing,
    engine_for,
    entries_apart,
    every_strategy,
    loss_of,
    set_gradients,
    small,
    train,
    weights_of,
)
from benchmarks.gpu.laws.precision import OPTIMIZERS
from lightning_sparsegrad import (
    BiasOnly,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    LayerGradDrop,
    SparseMask,
    TrainableRows,
)

_FREEZING: tuple[GradientTransform, ...] = (
    HeadOnly(),
    BiasOnly(),
    SparseMask(0.4, score="random"),
    SparseMask(0.4, score="weight", structure="row"),
    SparseMask(0.4, score="weight", scope="tensor"),
    TrainableRows({"embeddings.weight": [0, 3, 5]}, others="frozen"),
    TrainableRows({"embeddings.weight": [1, 399]}),
)


def check_frozen(device: torch.device) -> str:
    """What has no gradient in any window keeps its bits under momentum and decay; all else moves."""
    number = 0
    for transform, dtype, name in product(_FREEZING, (torch.float32, torch.bfloat16), OPTIMIZERS):
        model = small(device, dtype)
        engine, optimizer = engine_for(model, transform), OPTIMIZERS[name](model)
        engine.attach(optimizer)
        before = weights_of(model)
        trains: dict[str, Tensor] = {}
        for step in range(4):
            set_gradients(model, step)
            with engine.window(step):
                engine.apply_()
            for tensor, parameter in model.named_parameters():
                gradient = parameter.grad
                here = torch.zeros_like(parameter, dtype=torch.bool) if gradient is None else gradient != 0
                trains[tensor] = here | trains.get(tensor, torch.zeros_like(here))
            optimizer.step()
        after, frozen, still = weights_of(model), 0, 0
        for tensor, mask in trains.items():
            old, new, kept = before[tensor], after[tensor], ~mask.cpu()
            assert old is not None
            assert new is not None
            apart = entries_apart(old[kept], new[kept])
            assert not apart, f"{transform!r} in {dtype} by {name}: {apart} frozen entries of {tensor} moved"
            frozen += int(kept.sum())
            still += old[~kept].numel() - entries_apart(old[~kept], new[~kept])
        total = sum(mask.numel() for mask in trains.values())
        assert 0.2 < frozen / total < 1, f"{transform!r}: {frozen} of {total} entries are frozen"
        if dtype == torch.float32:  # bfloat16 cannot hold small steps
            assert still < 0.05 * total, f"{transform!r} by {name}: {still} entries that train stay"
        number += 1
    return f"{number} runs"


def check_skipping(device: torch.device) -> str:
    """A run that does not compute what is dropped has the weights of one that computes everything."""
    strategies: tuple[GradientTransform, ...] = (
        LayerGradDrop(0.5),
        GradualUnfreezing(unfreeze_every=2),
        HeadOnly(),
        GradDrop(0.5, granularity="tensor"),
    )
    for transform, enabled in product(strategies, (False, True)):
        weights = []
        for skips in (True, False):
            model = small(device)
            engine, optimizer = engine_for(model, transform, skip_dropped=skips), adamw(model)
            engine.attach(optimizer)
            computed = 0
            for step in range(TOTAL_STEPS):
                with engine.window(step, epoch=step // 2):
                    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                        loss = loss_of(model, step, device)
                    loss.backward()  # type: ignore[no-untyped-call]
                    computed += sum(parameter.grad is not None for parameter in model.parameters())
                    engine.apply_()
                optimizer.step()
                optimizer.zero_grad()
            weights.append((weights_of(model), computed))
        (skipping, fewer), (whole, all_of_them) = weights
        apart = differing(skipping, whole)
        assert not apart, f"{transform!r}, autocast: {enabled}: {apart}"
        assert fewer < all_of_them, f"{transform!r}: {fewer} of {all_of_them} gradients were computed"
    return f"{2 * len(strategies)} runs"


def check_resume(device: torch.device) -> str:
    """A run that goes on from its file at the border of a window has the weights of one that never stopped."""
    strategies = every_strategy()
    for name, make in strategies.items():
        model = small(device)
        engine, optimizer = engine_for(model, make()), adamw(model)
        engine.attach(optimizer)
        train(engine, optimizer, range(3), device)
        file = BytesIO()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "engine": engine.state_dict()}
        torch.save(state, file)
        train(engine, optimizer, range(3, 6), device)
        apart = differing(weights_of(model), _resumed(make(), file, device))
        assert not apart, f"{name}: {apart}"
    return f"{len(strategies)} strategies"


def _resumed(transform: GradientTransform, file: BytesIO, device: torch.device) -> dict[str, Any]:
    file.seek(0)
    state = torch.load(file, map_location=device, weights_only=True)
    model = small(device)
    model.load_state_dict(state["model"])
    engine, optimizer = engine_for(model, transform), adamw(model)
    engine.attach(optimizer)
    optimizer.load_state_dict(state["optimizer"])
    engine.load_state_dict(state["engine"])
    train(engine, optimizer, range(3, 6), device)
    return weights_of(model)


def check_description(device: torch.device) -> str:
    """`describe` knows the bytes of the moments that an optimizer holds after a run."""
    figures = []
    for transform in (HeadOnly(), GradualUnfreezing(unfreeze_every=2), GradDrop(0.3)):
        model = small(device)
        engine, optimizer = engine_for(model, transform), adamw(model)
        expected = engine.describe(TOTAL_STEPS).memory.moments
        train(engine, optimizer, range(TOTAL_STEPS), device)
        states = optimizer.state.values()
        held = sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))
        assert held == expected, f"{transform!r}: {held} bytes, described as {expected}"
        figures.append(f"{held} bytes")
    return ", ".join(figures)
