"""Laws of precision: thresholds are in true units, an overflow teaches nothing, half precision trains."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from benchmarks.gpu.laws._law import (
    Snapshot,
    differing,
    engine_for,
    every_strategy,
    loss_of,
    set_gradients,
    small,
    weights_of,
)
from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientEngine, GradientTransform, ValueClip

_SCALE = 2.0**12
_OVERFLOWS = 3  # the step whose gradients do
_Make = Callable[[nn.Module], Optimizer]
OPTIMIZERS: dict[str, _Make] = {
    "AdamW, fused": lambda model: AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=True),
    "AdamW, foreach": lambda model: AdamW(model.parameters(), lr=0.01, weight_decay=0.1, foreach=True),
    "SGD, fused": lambda model: SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1, fused=True),
    "SGD, foreach": lambda model: SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1, foreach=True),
}


def _scaler(device: torch.device, scale: float = _SCALE, **options: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(device.type, init_scale=scale, growth_interval=1000, **options)


def _scale_of(scaler: torch.amp.GradScaler, device: torch.device) -> Tensor:
    scale: Tensor = scaler.scale(torch.ones((), device=device))
    return scale


def check_true_units(device: torch.device) -> str:
    """Scaled gradients, whether or not they are unscaled first, give the weights of a run without a scale."""
    number = 0
    strategies = (Chain([GradDrop(0.3), ComponentNormClip(0.5)]), ValueClip(0.2))
    for transform, (name, make) in product(strategies, OPTIMIZERS.items()):
        plain, *scaled = (_scaled_run(transform, make, device, how) for how in ("plain", "scaled", "unscaled"))
        for weights in scaled:
            apart = differing(plain, weights)
            assert not apart, f"{transform!r} before {name}: {apart}"
            number += 1
    return f"{number} runs"


def _scaled_run(transform: GradientTransform, make: _Make, device: torch.device, how: str) -> Snapshot:
    model = small(device)
    engine, optimizer, scaler = engine_for(model, transform), make(model), _scaler(device)
    engine.attach(optimizer)
    for step in range(4):
        scale = _scale_of(scaler, device)
        set_gradients(model, step, scale=1.0 if how == "plain" else _SCALE)
        if how == "unscaled":
            scaler.unscale_(optimizer)
        with engine.window(step):
            engine.apply_(loss_scale=scale if how == "scaled" else None, unscaled=how == "unscaled")
        _step(optimizer, None if how == "plain" else scaler)
    return weights_of(model)


def _step(optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()


def check_overflow(device: torch.device) -> str:
    """A window that overflows changes no weight, no momentum, nothing that a strategy learns, and halves the scale."""
    number = 0
    for (name, make), kind in product(every_strategy().items(), ("AdamW, fused", "AdamW, foreach")):
        transform = make()
        if "calibration" in transform.phases:
            continue  # it refuses a scale while it calibrates
        model = small(device)
        engine, optimizer, scaler = engine_for(model, transform), OPTIMIZERS[kind](model), _scaler(device)
        engine.attach(optimizer)
        before: dict[str, Tensor] = {}
        for step in range(_OVERFLOWS + 1):
            before = _everything(engine, optimizer)
            scale = _scale_of(scaler, device)
            set_gradients(model, step, scale=_SCALE)
            if step == _OVERFLOWS:
                bias = model.head.bias.grad
                assert bias is not None
                bias[1] = torch.inf
            with engine.window(step, epoch=step // 2):
                engine.apply_(loss_scale=scale)
            _step(optimizer, scaler)
        engine.open(_OVERFLOWS + 1, epoch=2)  # what no step has committed is forgotten
        engine.abandon()
        after = _everything(engine, optimizer)
        changed = [key for key, old in before.items() if not _same(old, after[key])]
        assert not changed, f"{name} before {kind}: {len(changed)} of {len(before)} tensors changed: {changed[:3]}"
        made = [key for key in after.keys() - before.keys() if after[key].any()]  # fused: momenta that begin
        assert not made, f"{name} before {kind}: {made[:3]} are new, and not zero"
        assert scaler.get_scale() == _SCALE / 2, f"{name} before {kind}: the scale is {scaler.get_scale()}"
        number += 1
    return f"{number} runs"


def _everything(engine: GradientEngine, optimizer: Optimizer) -> dict[str, Tensor]:
    held = {"weights": engine.parameters.tensors, "momenta": optimizer.state_dict()["state"]}
    return dict(_tensors({**held, "engine": engine.state_dict()}, ""))


def _tensors(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield copies of the tensors of a state, each with its path."""
    if isinstance(tree, Tensor):
        yield path, tree.detach().cpu().clone()
    elif isinstance(tree, Mapping | list | tuple):
        for key, each in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _tensors(each, f"{path}/{key}")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def check_float16(device: torch.device) -> str:
    """Training under fp16 autocast, from a scale at which gradients overflow, finds one at which the loss falls."""
    figures = []
    for kind in ("AdamW, fused", "SGD, foreach"):
        model = small(device)
        transform = Chain([GradDrop(0.2), ComponentNormClip(1.0)])
        engine, optimizer = engine_for(model, transform), OPTIMIZERS[kind](model)
        engine.attach(optimizer)
        scaler = _scaler(device, 2.0**36, backoff_factor=2.0**-7)
        skipped, losses = 0, []
        for step in range(12):
            before, scale = weights_of(model), _scale_of(scaler, device)
            with engine.window(step):
                with torch.autocast(device.type, torch.float16):
                    loss = loss_of(model, 0, device)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                engine.apply_(loss_scale=scale)
            scale_before = scaler.get_scale()
            _step(optimizer, scaler)
            changed = differing(before, weights_of(model))
            is_skipped = scaler.get_scale() < scale_before
            assert is_skipped != bool(changed), f"step {step}: scale {scale_before}, {len(changed)} tensors changed"
            skipped += is_skipped
            losses.append(float(loss.detach()))
        assert 0 < skipped < 6, f"{kind}: {skipped} of 12 steps were left out"
        assert losses[-1] < losses[0], f"{kind}: losses {losses}"
        figures.append(f"{skipped} overflows, loss {losses[0]:.2f} to {losses[-1]:.2f}")
    return "; ".join(figures)


def check_bfloat16(device: torch.device) -> str:
    """Every strategy trains under bf16 autocast, and with weights in bfloat16."""
    strategies = every_strategy()
    for (name, make), dtype in product(strategies.items(), (torch.float32, torch.bfloat16)):
        model = small(device, dtype)
        engine, optimizer = engine_for(model, make()), OPTIMIZERS["AdamW, foreach"](model)
        engine.attach(optimizer)
        before = weights_of(model)
        for step in range(3):
            with engine.window(step, epoch=step // 2):
                with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.float32):
                    loss = loss_of(model, step, device)
                loss.backward()  # type: ignore[no-untyped-call]
                engine.apply_()
            _step(optimizer, None)
        after = weights_of(model)
        lost = [tensor for tensor, weight in after.items() if weight is not None and not weight.isfinite().all()]
        assert not lost, f"{name} in {dtype}: {lost} are not finite"
        assert differing(before, after), f"{name} in {dtype}: nothing trains"
    return f"{2 * len(strategies)} runs"
