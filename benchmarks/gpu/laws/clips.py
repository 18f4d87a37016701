"""Laws of clips: norms and factors are those of float64, limits are exact."""

from itertools import product

import torch
from torch import Tensor, nn

from benchmarks.gpu.laws._law import (
    differing,
    engine_for,
    entries_apart,
    every_strategy,
    gradients_of,
    set_gradients,
    small,
)
from lightning_sparsegrad import (
    ComponentNormClip,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    Identity,
    functional,
)

_SIZES = (5, 1000, 147_000, 590_000, 2_359_296)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CPU = torch.device("cpu")


def check_factors(device: torch.device) -> str:
    """Norms and factors are within 1e-6 of those in float64, dense, with outliers, and with many small components."""
    worst = 0.0
    for dtype, outliers in product(_DTYPES, (False, True)):
        tensors = [_normal(size, outliers).to(device, dtype) for size in (*_SIZES, *[64] * 50)]
        limits = [0.1 * 2 ** (index % 3) for index in range(len(tensors))]
        exact = torch.stack([tensor.double().norm() for tensor in tensors]).cpu()
        expected = (torch.tensor(limits, dtype=torch.float64) / (exact + 1e-6)).clamp(max=1)
        before = [tensor.double() for tensor in tensors]
        norms, factors = functional.clip_components_(tensors, [1] * len(tensors), limits)
        errors = torch.stack(
            [(norms.cpu().double() / exact - 1).abs().max(), (factors.cpu().double() / expected - 1).abs().max()]
        )
        worst = max(worst, float(errors.max()))
        assert worst < 1e-6, f"{dtype}, outliers: {outliers}: norms and factors are off by {errors.tolist()}"
        unit = torch.finfo(dtype).eps
        for tensor, whole, factor in zip(tensors, before, expected.tolist(), strict=True):
            off = float(((tensor.double() - whole * factor).abs() - unit * (whole * factor).abs()).max())
            assert off <= torch.finfo(dtype).tiny + 1e-7, f"{dtype}: entries of {tensor.numel()} are off by {off}"
    return f"largest difference {worst:.0e}"


def _normal(size: int, outliers: bool) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(size)) / 64
    if outliers:
        numbers[:: max(2, size // 7)] *= 300
    return numbers


def check_limits(device: torch.device) -> str:
    """A rate of 0 and an infinite threshold leave every bit."""
    limits: list[GradientTransform] = [
        GradDrop(0.0),
        GradDrop(0.0, granularity="row"),
        ComponentNormClip(float("inf")),
        GlobalNormClip(float("inf")),
        Identity(),
    ]
    for dtype, transform in product(_DTYPES, limits):
        model = small(device, dtype)
        set_gradients(model, 1)
        before = gradients_of(model)
        with (engine := engine_for(model, transform)).window(1):
            engine.apply_()
        apart = differing(before, gradients_of(model))
        assert not apart, f"{transform!r} in {dtype} changed {apart}"
    return f"{3 * len(limits)} cases"


def check_torch_norm(device: torch.device) -> str:
    """With `norm="torch"`, bits are those of `clip_grad_norm_`; else norms are as near as 1e-6."""
    for dtype in _DTYPES:
        ours, theirs, near = (small(device, dtype) for _ in range(3))
        for model in (ours, theirs, near):
            set_gradients(model, 2)
        for model, transform in ((ours, GlobalNormClip(0.5, norm="torch")), (near, GlobalNormClip(0.5))):
            with (engine := engine_for(model, transform)).window(2):
                engine.apply_()
        if dtype == torch.float32:  # torch adds up the norms of half precision in half precision
            nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            apart = differing(gradients_of(ours), gradients_of(theirs))
            assert not apart, f"{dtype}: {apart}"
        for name, gradient in gradients_of(near).items():
            other = gradients_of(ours)[name]
            assert gradient is not None
            assert other is not None
            torch.testing.assert_close(gradient, other, rtol=2 * torch.finfo(dtype).eps + 1e-6, atol=1e-7)
    return "3 dtypes"


def check_every_strategy(device: torch.device) -> str:
    """Each exported strategy leaves, in six windows, the gradients that it leaves on the CPU."""
    strategies = every_strategy()
    for name, make in strategies.items():
        left = [_six_windows(make(), target) for target in (device, CPU)]
        for step, (there, here) in enumerate(zip(*left, strict=True)):
            for tensor, gradient in there.items():
                other = here[tensor]
                if gradient is None or other is None:
                    assert gradient is other, f"{name} at step {step}: {tensor} is dropped on one device alone"
                    continue
                apart = int(((gradient - other).abs() > 1e-5 * other.abs() + 1e-8).sum())
                assert not apart, f"{name} at step {step}: {apart} of {gradient.numel()} in {tensor} differ"
    return f"{len(strategies)} strategies"


def _six_windows(transform: GradientTransform, device: torch.device) -> list[dict[str, Tensor | None]]:
    model = small(device)
    engine = engine_for(model, transform)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine.attach(optimizer)
    left = []
    for step in range(6):
        set_gradients(model, step, scale=1 + step % 2)
        with engine.window(step, epoch=step // 2):
            engine.apply_()
        optimizer.step()
        left.append(gradients_of(model))
    return left


def check_same_bits_twice(device: torch.device) -> str:
    """Norms of the same gradients have the same bits: ranks decide alike."""
    tensors = [_normal(size, outliers=True).to(device) for size in _SIZES]
    norms = [functional.component_norms([tensor.clone() for tensor in tensors], [1] * len(tensors)) for _ in range(5)]
    apart = [entries_apart(norms[0], each) for each in norms[1:]]
    assert not any(apart), f"{apart} of {len(tensors)} norms differ"
    return "5 times"
