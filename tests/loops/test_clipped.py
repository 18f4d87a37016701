"""`ClippedCheck`: a fit reports at its end that a clip scaled nearly everything nearly always."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_sparsegrad import (
    AdaGC,
    AdaptiveGradientClip,
    AutoClip,
    Chain,
    ComponentNormClip,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    HeadOnly,
    Linear,
    SpikeSkip,
    ValueClip,
    ZClip,
)
from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.loops._divergence import DivergenceWarning
from lightning_sparsegrad.transforms.base import Gradients, Window
from tests.lightning.tasks import DOORS, loader, through, trainer

TINY, HUGE = 1e-8, 1e3
STEPS = 50


class Halved(GradientTransform):
    """Scales everything, and is not a clip."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self._names = list(parameters)

    def apply_(self, gradients: Gradients, window: Window) -> None:
        for gradient in gradients.values():
            gradient.mul_(0.5)

    @property
    def factors(self) -> dict[str, Tensor]:
        return dict.fromkeys(self._names, torch.tensor(0.5))


class Diverges(Callback):
    """Data that make the loss undefined from the first step on."""

    def on_train_batch_start(self, run: Trainer, module: Any, batch: Any, *_: Any) -> None:
        batch[0].fill_(torch.nan)


def messages_of(
    caplog: pytest.LogCaptureFixture,
    transform: GradientTransform,
    door: str = "module",
    *,
    steps: int = STEPS,
    holding: str = "learning rate",
    ckpt_path: Path | None = None,
    **arguments: Any,
) -> str:
    """Fit; return the line that holds some words, or nothing."""
    task, callbacks = through(door, transform)
    run = trainer(**{**arguments, "callbacks": [*callbacks, *arguments.get("callbacks", [])]})
    caplog.clear()
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        run.fit(task, loader(steps), loader(1), ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return "\n".join(record.getMessage() for record in caplog.records if holding in record.getMessage())


@pytest.mark.parametrize("door", DOORS)
def test_a_clip_of_everything_is_named(door: str, caplog: pytest.LogCaptureFixture) -> None:
    chain = Chain({"mask": GradDrop(0.2), "clip": ComponentNormClip(TINY)})
    assert messages_of(caplog, chain, door) == (
        "`ComponentNormClip(max_norm=1e-08)` scaled 100% of the components it clips, averaged over 5 windows: "
        "the threshold then acts as a learning rate."
    )


def test_clips_of_all_kinds_count(caplog: pytest.LogCaptureFixture) -> None:
    for clip in (
        GlobalNormClip(TINY),
        AdaptiveGradientClip(TINY),
        ComponentNormClip(Linear(TINY, 2 * TINY)),
        ZClip(max_norm=TINY),
    ):
        assert "scaled 100% of the components it clips" in messages_of(caplog, clip), clip


def test_all_else_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    for transform in (
        ComponentNormClip(TINY, overrides={"*.bias": HUGE}),  # half of the components
        ComponentNormClip(Linear(TINY, HUGE)),  # in the first windows
        ComponentNormClip(float("inf")),
        ValueClip(TINY),  # which does not state its factors
        Halved(),
        GradDrop(0.99),
        HeadOnly(),
    ):
        assert messages_of(caplog, transform) == "", transform
    with pytest.warns(DivergenceWarning):
        assert messages_of(caplog, ComponentNormClip(TINY), callbacks=[Diverges()]) == ""
    assert messages_of(caplog, ComponentNormClip(TINY), accumulate_grad_batches=2) == ""  # in 25 windows


def test_a_resumed_fit_counts_its_own_windows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "last.ckpt"

    class Save(Callback):
        def on_train_epoch_end(self, run: Trainer, *_: Any) -> None:
            run.save_checkpoint(path)

    clip = ComponentNormClip(TINY)
    assert "averaged over 5 windows" in messages_of(caplog, clip, callbacks=[Save()])
    assert "averaged over 5 windows" in messages_of(caplog, clip, max_epochs=2, ckpt_path=path)


def test_a_warmup_longer_than_the_fit_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for clip, warming_up in (
        (ZClip(warmup_steps=6), True),
        (ZClip(warmup_steps=5), False),
        (AdaGC(warmup_steps=7), True),
        (SpikeSkip(warmup_steps=7), True),
        (AutoClip(), False),
    ):
        line = f"`{clip!r}` is warming up in all 6 steps of this run. Found `warmup_steps = {clip.warmup_steps}`."
        assert messages_of(caplog, clip, steps=6, holding="warming up") == (line if warming_up else ""), clip


def test_a_second_fit_of_a_trainer_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    task, _ = through("module", ComponentNormClip(TINY))
    run = trainer()
    for epochs in (1, 2):
        run.fit_loop.max_epochs = epochs
        caplog.clear()
        with caplog.at_level(logging.INFO, "lightning.pytorch"):
            run.fit(task, loader(STEPS), loader(1))
        assert "averaged over 5 windows" in caplog.text


def test_nothing_is_read_before_the_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    steps: list[int] = []
    original = Tensor.__float__

    class Watch(Callback):
        def on_train_start(self, run: Trainer, *_: Any) -> None:
            def reading(tensor: Tensor) -> float:
                steps.append(run.global_step)
                return original(tensor)

            monkeypatch.setattr(Tensor, "__float__", reading)

    assert messages_of(caplog, ComponentNormClip(TINY), callbacks=[Watch()])
    assert set(steps) == {STEPS}
