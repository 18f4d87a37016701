"""Mixed precision: thresholds in true units, and no overflow hidden from the gradient scaler."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import SGD, AdamW

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    HeadOnly,
    Identity,
    ValueClip,
)
from lightning_sparsegrad.functional import derive_key, keep_mask
from tests.cases import cases

from .tasks import (
    DOORS,
    SEED,
    STRATEGIES,
    Batch,
    Regression,
    Weights,
    assert_same_weights,
    fit,
    plain_loop,
    weights,
    windows,
)
from .test_manual_optimization import Manual

HALF = partial(torch.autocast, "cpu", torch.float16, cache_enabled=False)

pytestmark = pytest.mark.parametrize("door", DOORS)


def half(scaler: GradScaler) -> dict[str, Any]:
    """Return what makes a Trainer use float16 on the CPU."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


class Plain(Regression):
    """Each weight moves by its gradient."""

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=1.0)


class Fused(Regression):
    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=0.01, weight_decay=0.1, fused=True)


# ---------------------------------------------------------------- thresholds
@cases("accumulate", [1, 3])
@cases("scale", [1.0, 512.0])
@cases("clip", [ComponentNormClip(0.02), GlobalNormClip(0.05), ValueClip(0.002)], ids=lambda clip: type(clip).__name__)
def test_thresholds_are_in_true_units(door: str, clip: GradientTransform, scale: float, accumulate: int) -> None:
    run = fit(door, clip, Plain, accumulate_grad_batches=accumulate, **half(GradScaler("cpu", scale)))
    expected = plain_loop(Plain(), clip, windows(accumulate))
    torch.testing.assert_close(weights(run), expected, rtol=0, atol=2e-3)
    assert distance(expected, weights(Plain())) > 0.03


def distance(one: Weights, other: Weights) -> float:
    return float(torch.stack([(one[name] - other[name]).norm() for name in one]).norm())


@cases("accumulate", [1, 3])
def test_a_clipped_tensor_moves_by_its_threshold(door: str, accumulate: int) -> None:
    clip = ComponentNormClip(1e-3)
    run = fit(door, clip, Plain, max_steps=1, accumulate_grad_batches=accumulate, **half(GradScaler("cpu", 512.0)))
    before = weights(Plain())
    moved = {name: float((weight - before[name]).norm()) for name, weight in weights(run).items()}
    assert moved == pytest.approx(dict.fromkeys(before, 1e-3), rel=2e-3)


@cases("fused", [False, True])
def test_manual_optimization_under_a_scaler(door: str, fused: bool) -> None:
    kind = type("ManualTask", (Manual, Fused) if fused else (Manual,), {})
    strategy = STRATEGIES["mask and clip"]
    run = fit(door, strategy, kind, **half(GradScaler("cpu", 256.0)))
    model = Fused() if fused else Regression()
    expected = plain_loop(model, strategy, windows(3), autocast=HALF, scaler=GradScaler("cpu", 256.0))
    torch.testing.assert_close(weights(run), expected, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- overflow
class Scales(Callback):
    """Reads the loss scale, and whether the weights moved, at every optimizer step."""

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler
        self.scales: list[float] = []
        self.moved: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.before = weights(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.scales.append(self.scaler.get_scale())
        self.moved.append(distance(self.before, weights(pl_module)) > 0)


def watch(door: str, transform: GradientTransform, kind: type[Regression], scale: float, **arguments: Any) -> Scales:
    scaler = GradScaler("cpu", init_scale=scale)
    watched = Scales(scaler)
    fit(door, transform, kind, callbacks=[watched], **half(scaler), **arguments)
    return watched


class Spiked(Regression):
    """One entry of one gradient overflows in the third step."""

    entry = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = 0
        self.network.head.weight.register_hook(self.spike)  # type: ignore[no-untyped-call]

    def spike(self, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[self.entry] = torch.inf if self.step == 2 else 0
        return gradient

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.step = batch_idx
        return self.loss(batch)


def masked_entry(kept: bool) -> int:
    mask = keep_mask((8,), derive_key("GradDrop", SEED, 2, "network.head.weight"), 0.5)
    return int((mask == kept).nonzero()[0])


@cases("clip", [[], [ComponentNormClip(0.02)], [GlobalNormClip(0.02)], [ValueClip(0.01)]], ids=repr)
@cases("kept", [True, False])
@cases("base", [Regression, Fused])
def test_overflow_of_one_entry_is_seen_whether_masked_or_not(
    door: str, kept: bool, clip: list[GradientTransform], base: type[Regression]
) -> None:
    kind = type("Task", (Spiked, base), {"entry": masked_entry(kept)})
    watched = watch(door, Chain([GradDrop(0.5), *clip]), kind, 256.0)
    assert watched.moved == [True, True, False, True, True, True, True]
    assert watched.scales[1:3] == [256.0, 128.0]


class SpikedBelow(Spiked):
    """The same in a block, below the head."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network.blocks[0][0].weight.register_hook(self.spike)  # type: ignore[index]

    def spike(self, gradient: Tensor) -> Tensor:
        return super().spike(gradient) if gradient.numel() > 8 else gradient


def test_overflow_of_a_tensor_that_is_dropped_whole_does_not_count(door: str) -> None:
    watched = watch(door, HeadOnly(), SpikedBelow, 256.0)
    assert all(watched.moved)
    assert watched.scales == [256.0] * 7
    watched = watch(door, Identity(), SpikedBelow, 256.0)
    assert not watched.moved[2]


@pytest.mark.filterwarnings("ignore:Nothing trains")
def test_dropping_everything_under_a_scaler_is_an_error(door: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`GradDrop\(rate=1\)` should keep a gradient under loss scaling"):
        fit(door, GradDrop(1.0), **half(GradScaler("cpu", 256.0)))


# ---------------------------------------------------------------- steps without a loss
class Skipping(Regression):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return None if batch_idx == 2 else self.loss(batch)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_window_whose_last_micro_batch_has_no_loss(door: str) -> None:
    """Lightning leaves that step out under a scaler; the windows around it are as ever."""
    strategy = STRATEGIES["mask and clip"]
    run = fit(door, strategy, Skipping, accumulate_grad_batches=3, **half(GradScaler("cpu", 256.0)))
    expected = plain_loop(
        Regression(), strategy, windows(3)[1:], first_step=1, autocast=HALF, scaler=GradScaler("cpu", 256.0)
    )
    assert_same_weights(weights(run), expected)
