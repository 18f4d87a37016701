"""FabricAdapter: a loop that is written with Lightning Fabric trains the weights of a plain loop."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.single_device import SingleDeviceStrategy
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad import ConfigurationError, FabricAdapter, GradientTransform, Identity
from lightning_sparsegrad.loops._explicit_adapter import ExplicitAdapter
from tests.cases import cases
from tests.engine.helpers import BOTH, OPTIMIZERS, loss_on, tokens_at, weights
from tests.loops import explicit_checks
from tests.loops.explicit import (
    ALL,
    BATCHES,
    MICRO,
    SCALED,
    TRANSFORMS,
    Loop,
    by_hand,
    halves,
    is_last,
    loss_of,
    new_scaler,
)
from tests.transforms.small import Small, assert_same_bits


class FabricLoop(Loop):
    @override
    def prepare(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        plugins: Any = [] if scaler is None else [MixedPrecision("16-mixed", "cpu", scaler)]
        self.fabric = Fabric(accelerator="cpu", devices=1, plugins=plugins)
        self.model, self.optimizer = self.fabric.setup(self.small, optimizer)

    @override
    def adapt(self, model: Any, optimizer: Any, transform: GradientTransform, **options: Any) -> ExplicitAdapter:
        return FabricAdapter(self.fabric, model, optimizer, transform, **options)

    @override
    def train(self, first: int = 0, last: int = ALL, *, spoiled: Collection[int] = ()) -> None:
        for index in range(first, last):
            epoch, batch = divmod(index, BATCHES)
            synced = is_last(index)
            with self.adapter.window(epoch=epoch), self.fabric.no_backward_sync(self.model, enabled=not synced):
                self.fabric.backward(loss_of(self.model, tokens_at(batch), index, spoiled) / MICRO)
            if synced:
                self.adapter.apply_()
                self.optimizer.step()
                self.optimizer.zero_grad()

    @override
    def micro_batch(self, *, applies: bool = True, epoch: int = 0) -> None:
        with self.adapter.window(epoch=epoch):
            self.fabric.backward(loss_on(self.model, tokens_at(0)))
        if applies:
            self.adapter.apply_()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "gradient_transform": self.adapter}

    @override
    def save(self, folder: Path) -> None:
        self.fabric.save(folder / "checkpoint.pt", self.state)

    @override
    def load(self, folder: Path) -> None:
        assert self.fabric.load(folder / "checkpoint.pt", self.state, weights_only=True) == {}


# ------------------------------------------------------------ same weights
@cases("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@cases("optimizer", ["AdamW", "SGD"])
def test_the_weights_are_those_of_a_plain_loop(transform: GradientTransform, optimizer: str) -> None:
    explicit_checks.check_same_weights(FabricLoop, transform, optimizer=optimizer)


def test_work_is_skipped() -> None:
    explicit_checks.check_work_is_skipped(FabricLoop)


class ParallelLoop(FabricLoop):
    @override
    def prepare(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)
        self.fabric = Fabric(accelerator="cpu", devices=1, strategy=strategy)
        self.fabric.launch()
        self.model, self.optimizer = self.fabric.setup(self.small, optimizer)


def test_work_is_skipped_in_the_wrapper_of_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):  # Fabric sets them
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    try:
        explicit_checks.check_work_is_skipped(ParallelLoop)
    finally:
        torch.distributed.destroy_process_group()


@cases("transform", SCALED.values(), ids=SCALED)
@cases("optimizer", ["AdamW", "fused AdamW"])
def test_the_weights_are_those_of_a_plain_loop_under_loss_scaling(transform: GradientTransform, optimizer: str) -> None:
    explicit_checks.check_loss_scaling(FabricLoop, transform, optimizer, unscales=False)


@cases("nonfinite", ["skip", "raise"])
def test_an_overflow_is_counted_alone(nonfinite: str) -> None:
    explicit_checks.check_loss_scaling(FabricLoop, BOTH, "AdamW", unscales=False, nonfinite=nonfinite)


def test_a_gradient_that_is_not_finite_follows_the_policy() -> None:
    explicit_checks.check_nonfinite(FabricLoop)


class CompiledLoop(FabricLoop):
    @override
    def prepare(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        self.fabric = Fabric(accelerator="cpu", devices=1)
        compiled: Any = torch.compile(self.small, backend="eager")
        self.model, self.optimizer = self.fabric.setup(compiled, optimizer)


def test_a_compiled_model_trains_alike() -> None:
    explicit_checks.check_compiled(FabricLoop, CompiledLoop)


def test_a_clip_of_fabric_may_follow() -> None:
    loop = FabricLoop(BOTH, scaler=new_scaler())
    with loop.adapter.window():
        loop.fabric.backward(loss_on(loop.model, tokens_at(0)))
    loop.adapter.apply_()
    norm: Any = loop.fabric.clip_gradients(loop.model, loop.optimizer, max_norm=0.01)
    assert 0.01 < float(norm) < 1  # of unscaled gradients
    loop.optimizer.step()


# ------------------------------------------------------------ resume
@cases("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_resume_in_the_middle_of_an_epoch_is_exact(transform: GradientTransform, tmp_path: Path) -> None:
    explicit_checks.check_resume(FabricLoop, transform, tmp_path)


def test_a_resumed_run_may_have_another_strategy(tmp_path: Path) -> None:
    explicit_checks.check_changed_strategy(FabricLoop, tmp_path)


# ------------------------------------------------------------ misuse
def test_what_fabric_has_not_set_up_is_refused() -> None:
    explicit_checks.check_refusals(FabricLoop, "fabric.setup")
    model: Any = Small()
    message = r"`fabric` should be a `lightning.fabric.Fabric`. Found a `tests.transforms.small.Small`"
    with pytest.raises(ConfigurationError, match=message):
        FabricAdapter(model, model, OPTIMIZERS["SGD"](model.parameters()), Identity())


@cases("name", ["DeepSpeedStrategy", "FSDPStrategy", "XLAStrategy", "XLAFSDPStrategy"])
def test_a_strategy_of_fabric_without_whole_gradients_is_refused(name: str) -> None:
    strategy = type(name, (SingleDeviceStrategy,), {})()  # those of Fabric need an accelerator
    loop = FabricLoop(Identity())
    loop.fabric = Fabric(accelerator="cpu", devices=1, strategy=strategy)
    with pytest.raises(ConfigurationError, match=rf"`strategy` of Fabric should leave each .* Found `{name}`\."):
        loop.adapt(loop.model, loop.optimizer, Identity())


def test_an_optimizer_without_one_gradient_per_step_is_refused() -> None:
    loop = FabricLoop(Identity())
    optimizer = loop.fabric.setup_optimizers(torch.optim.LBFGS(loop.small.parameters(), lr=0.1))
    with pytest.raises(ConfigurationError, match="Found `LBFGS`, whose closure"):
        loop.adapt(loop.model, optimizer, Identity())


def split(loop: Any) -> list[Any]:
    return list(loop.fabric.setup_optimizers(*halves(loop.small)))


def test_several_optimizers_train_as_one() -> None:
    loop = FabricLoop(Identity())
    model, optimizers = loop.model, split(loop)
    adapter = loop.adapt(model, optimizers, BOTH, seed=5)
    for index in range(ALL):
        with adapter.window(epoch=index // BATCHES):
            loop.fabric.backward(loss_on(model, tokens_at(index % BATCHES)) / MICRO)
        if is_last(index):
            adapter.apply_()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert_same_bits(weights(loop.small), weights(by_hand(BOTH, optimizer="SGD")))


def test_several_optimizers_are_refused_under_loss_scaling() -> None:
    explicit_checks.check_optimizers_under_loss_scaling(FabricLoop, split)


def test_a_misplaced_call_is_refused() -> None:
    explicit_checks.check_misuse(FabricLoop)


def test_steps_without_a_window_are_said() -> None:
    explicit_checks.check_steps_without_windows(FabricLoop)


def test_a_clip_that_warms_up_in_every_step_is_said() -> None:
    explicit_checks.check_long_warmup(FabricLoop)


def test_a_clip_of_fabric_before_it_is_refused_under_loss_scaling() -> None:
    loop = FabricLoop(Identity(), scaler=new_scaler())
    with loop.adapter.window():
        loop.fabric.backward(loss_on(loop.model, tokens_at(0)))
    loop.fabric.clip_gradients(loop.model, loop.optimizer, max_norm=1.0)
    with pytest.raises(RuntimeError, match=r"`FabricAdapter.apply_\(\)` should be called before any clip and before"):
        loop.adapter.apply_()
    assert loop.adapter.engine.current is None


def test_a_second_adapter_at_work_is_refused() -> None:
    explicit_checks.check_two_adapters(FabricLoop)


def test_an_exception_in_a_window_leaves_the_model_as_it_was() -> None:
    explicit_checks.check_exceptions(FabricLoop)


def test_a_window_spans_its_micro_batches() -> None:
    explicit_checks.check_windows(FabricLoop)


def test_an_adapter_that_is_gone_is_not_called() -> None:
    explicit_checks.check_nothing_keeps_an_adapter_alive(FabricLoop)
