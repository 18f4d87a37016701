"""AccelerateAdapter: a loop that is written with Accelerate trains the weights of a plain loop."""

import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_sparsegrad import (
    AccelerateAdapter,
    ConfigurationError,
    GradientTransform,
    GradualUnfreezing,
    Identity,
    LayerGradDrop,
)
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
    loss_of,
    new_scaler,
    tokens_of_epoch,
)
from tests.transforms.small import Small, assert_same_bits


def forget_accelerators() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def no_accelerator_is_left() -> Iterator[None]:
    """Reset the state that all Accelerators of a process share, so that other tests may have other settings."""
    yield
    forget_accelerators()


def new_accelerator(scaler: torch.amp.GradScaler | None = None, **settings: Any) -> Any:
    """Return an Accelerator that shares nothing with the last one; on the CPU, none has a scaler by itself."""
    forget_accelerators()
    settings = {"gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=MICRO), **settings}
    accelerator = Accelerator(cpu=True, mixed_precision="no" if scaler is None else "fp16", **settings)
    accelerator.scaler, accelerator.native_amp = scaler, scaler is not None
    return accelerator


class AccelerateLoop(Loop):
    settings: ClassVar[dict[str, Any]] = {}

    @override
    def prepare(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
        self.accelerator = new_accelerator(scaler, **self.settings)
        rows: Any = torch.cat(tokens_of_epoch())
        loader = DataLoader(rows, batch_size=4)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(self.small, optimizer, loader)

    @override
    def adapt(self, model: Any, optimizer: Any, transform: GradientTransform, **options: Any) -> ExplicitAdapter:
        return AccelerateAdapter(self.accelerator, model, optimizer, transform, **options)

    @override
    def train(self, first: int = 0, last: int = ALL, *, spoiled: Collection[int] = ()) -> None:
        for epoch in range(first // BATCHES, ALL // BATCHES):
            index = max(first, epoch * BATCHES)
            for tokens in self.accelerator.skip_first_batches(self.loader, index - epoch * BATCHES):
                if index >= last:
                    break
                with self.adapter.accumulate(epoch=epoch):  # type: ignore[attr-defined]  # of this adapter
                    self.accelerator.backward(loss_of(self.model, tokens, index, spoiled))
                    self.adapter.apply_()
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                index += 1

    @override
    def micro_batch(self, *, applies: bool = True, epoch: int = 0) -> None:
        with self.adapter.window(epoch=epoch):
            self.accelerator.backward(loss_on(self.model, tokens_at(0)))
            if applies:
                self.adapter.apply_()
            self.optimizer.step()
            self.optimizer.zero_grad()

    @override
    def save(self, folder: Path) -> None:
        self.accelerator.register_for_checkpointing(self.adapter)
        self.accelerator.save_state(str(folder))

    @override
    def load(self, folder: Path) -> None:
        self.accelerator.register_for_checkpointing(self.adapter)
        self.accelerator.load_state(str(folder))


# ------------------------------------------------------------ same weights
@cases("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@cases("optimizer", ["AdamW", "SGD"])
def test_the_weights_are_those_of_a_plain_loop(transform: GradientTransform, optimizer: str) -> None:
    explicit_checks.check_same_weights(AccelerateLoop, transform, optimizer=optimizer)


def test_work_is_skipped() -> None:
    explicit_checks.check_work_is_skipped(AccelerateLoop)


@cases("transform", [*SCALED.values(), TRANSFORMS["SparseMask"], TRANSFORMS["LayerGradDrop"]], ids=str)
@cases("optimizer", ["AdamW", "fused AdamW"])
def test_the_weights_are_those_of_a_plain_loop_under_loss_scaling(transform: GradientTransform, optimizer: str) -> None:
    explicit_checks.check_loss_scaling(AccelerateLoop, transform, optimizer, unscales=True)


@cases("nonfinite", ["skip", "raise"])
def test_an_overflow_is_counted_alone(nonfinite: str) -> None:
    explicit_checks.check_loss_scaling(AccelerateLoop, BOTH, "AdamW", unscales=True, nonfinite=nonfinite)


def test_a_gradient_that_is_not_finite_follows_the_policy() -> None:
    explicit_checks.check_nonfinite(AccelerateLoop)


class CompiledLoop(AccelerateLoop):
    settings: ClassVar = {"dynamo_backend": "eager"}


def test_a_compiled_model_trains_alike() -> None:
    explicit_checks.check_compiled(AccelerateLoop, CompiledLoop)


class CrossingLoop(AccelerateLoop):
    settings: ClassVar = {
        "gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=MICRO, sync_with_dataloader=False)
    }


@cases("transform", [GradualUnfreezing(unfreeze_every="epoch"), LayerGradDrop(0.5, resample_every="epoch")], ids=str)
def test_a_window_over_two_epochs_is_one_of_the_first(transform: GradientTransform) -> None:
    loops = [CrossingLoop(transform, optimizer="SGD", skip_dropped=skip) for skip in (True, False)]
    for loop in loops:
        loop.train()
        assert loop.adapter.engine.step == ALL // MICRO
    torch.testing.assert_close(*(weights(loop.small) for loop in loops), rtol=0, atol=1e-6)


# ------------------------------------------------------------ resume
@cases("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_resume_in_the_middle_of_an_epoch_is_exact(transform: GradientTransform, tmp_path: Path) -> None:
    explicit_checks.check_resume(AccelerateLoop, transform, tmp_path)


def test_a_resume_is_exact_under_loss_scaling(tmp_path: Path) -> None:
    explicit_checks.check_resume(AccelerateLoop, BOTH, tmp_path, scaled=True)


def test_a_resumed_run_may_have_another_strategy(tmp_path: Path) -> None:
    explicit_checks.check_changed_strategy(AccelerateLoop, tmp_path)


# ------------------------------------------------------------ misuse
def test_what_accelerate_has_not_prepared_is_refused() -> None:
    explicit_checks.check_refusals(AccelerateLoop, "accelerator.prepare")
    model: Any = Small()
    with pytest.raises(ConfigurationError, match=r"should be an `accelerate.Accelerator`. Found a `Small`"):
        AccelerateAdapter(model, model, OPTIMIZERS["SGD"](model.parameters()), Identity())


@cases(
    ("backend", "message"),
    [
        ("DEEPSPEED", "use FSDP2 in place of DeepSpeed"),
        ("FSDP", "use FSDP2 in place of FSDP1, by `FullyShardedDataParallelPlugin"),
        ("MEGATRON_LM", "use FSDP2 in place of Megatron-LM"),
        ("XLA", "use DistributedDataParallel in place of XLA"),
    ],
)
def test_a_backend_without_whole_gradients_is_refused(backend: str, message: str) -> None:
    loop = AccelerateLoop(Identity())
    loop.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=1)
    loop.accelerator.state.distributed_type = DistributedType(backend)
    with pytest.raises(ConfigurationError) as refused:
        loop.adapt(loop.model, loop.optimizer, Identity())
    assert message in str(refused.value)
    assert str(refused.value).endswith(f"Found `distributed_type = {backend}`.")


class Lomo(torch.optim.SGD):
    """An optimizer with the name of one that changes weights in the backward pass."""


@cases("kind", [torch.optim.LBFGS, Lomo])
def test_an_optimizer_without_one_gradient_per_step_is_refused(kind: Any) -> None:
    loop = AccelerateLoop(Identity())
    optimizer = loop.accelerator.prepare(kind(loop.small.parameters(), lr=0.1))
    with pytest.raises(ConfigurationError, match=rf"Found `{kind.__name__}`, wh"):
        loop.adapt(loop.model, optimizer, Identity())


def split(loop: Any) -> list[Any]:
    return [loop.accelerator.prepare(optimizer) for optimizer in halves(loop.small)]


def test_several_optimizers_train_as_one() -> None:
    loop = AccelerateLoop(Identity())
    model, optimizers = loop.model, split(loop)
    adapter = loop.adapt(model, optimizers, BOTH, seed=5)
    assert isinstance(adapter, AccelerateAdapter)
    for _ in range(2):
        for tokens in loop.loader:
            with adapter.accumulate():
                loop.accelerator.backward(loss_on(model, tokens))
                adapter.apply_()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
    assert_same_bits(weights(loop.small), weights(by_hand(BOTH, optimizer="SGD")))


def test_several_optimizers_are_refused_under_loss_scaling() -> None:
    explicit_checks.check_optimizers_under_loss_scaling(AccelerateLoop, split)


def test_a_misplaced_call_is_refused() -> None:
    explicit_checks.check_misuse(AccelerateLoop)


def test_steps_without_a_window_are_said() -> None:
    explicit_checks.check_steps_without_windows(AccelerateLoop)


def test_a_clip_that_warms_up_in_every_step_is_said() -> None:
    explicit_checks.check_long_warmup(AccelerateLoop)


@cases("clip", ["norm", "value"])
def test_a_clip_of_accelerate_before_it_is_refused_under_loss_scaling(clip: str) -> None:
    loop = AccelerateLoop(Identity(), scaler=new_scaler())
    with loop.adapter.window():
        loop.accelerator.backward(loss_on(loop.model, tokens_at(0)))
        getattr(loop.accelerator, f"clip_grad_{clip}_")(loop.small.parameters(), 1.0)
        with pytest.raises(RuntimeError, match=r"`AccelerateAdapter.apply_\(\)` should be called before any clip"):
            loop.adapter.apply_()


def test_a_second_adapter_at_work_is_refused() -> None:
    explicit_checks.check_two_adapters(AccelerateLoop)


def test_an_exception_in_a_window_leaves_the_model_as_it_was() -> None:
    explicit_checks.check_exceptions(AccelerateLoop)
    loop = AccelerateLoop(TRANSFORMS["GradualUnfreezing"])
    loop.micro_batch()
    assert isinstance(loop.adapter, AccelerateAdapter)
    explicit_checks.interrupt(loop, loop.adapter.accumulate(epoch=0))
    assert loop.small.embeddings.weight.requires_grad


def test_a_window_spans_its_micro_batches() -> None:
    explicit_checks.check_windows(AccelerateLoop)


def test_an_adapter_that_is_gone_is_not_called() -> None:
    explicit_checks.check_nothing_keeps_an_adapter_alive(AccelerateLoop)


def test_nothing_of_a_loop_is_imported_with_its_adapter() -> None:
    names = ["lightning", "accelerate", "transformers", "trl", "peft"]
    code = "import sys, lightning_sparsegrad\n"
    code += "from lightning_sparsegrad import AccelerateAdapter, FabricAdapter\n"
    code += f"print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == "[]\n"
