"""Both doors skip work on gradients that will be dropped, and restore the model afterwards."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_sparsegrad import GradDrop, GradientTransform, GradualUnfreezing, HeadOnly, LayerGradDrop
from tests.cases import cases

from .tasks import DOORS, Batch, Regression, assert_same_weights, loader, through, trainer, weights

TRANSFORMS: dict[str, GradientTransform] = {
    "layers": LayerGradDrop(0.5, seed=1),
    "tensors": GradDrop(0.5, granularity="tensor", seed=1),
    "unfreezing": GradualUnfreezing(unfreeze_every=1),
    "head": HeadOnly(),
}


class Counting(Regression):
    """Counts the parameters that need no gradient, by micro-batch, and in validation."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skipped: list[int] = []
        self.validated: list[int] = []
        self.fails_at: int | None = None

    def off(self) -> int:
        return sum(not parameter.requires_grad for parameter in self.parameters())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.skipped.append(self.off())
        if batch_idx == self.fails_at:
            raise RuntimeError("bad luck")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated.append(self.off())
        super().validation_step(batch, batch_idx)


def fitted(door: str, transform: GradientTransform, *, skip: bool = True, **arguments: Any) -> Counting:
    task, callbacks = through(door, transform, Counting, skip_dropped=skip)
    trainer(callbacks=callbacks, **arguments).fit(task, loader(), loader(2))
    assert isinstance(task, Counting)
    return task


@cases("door", DOORS)
@cases("accumulate", [1, 3])
@cases("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_work_is_skipped_and_the_weights_are_the_same(door: str, accumulate: int, transform: GradientTransform) -> None:
    skipped = fitted(door, transform, accumulate_grad_batches=accumulate)
    computed = fitted(door, transform, accumulate_grad_batches=accumulate, skip=False)
    assert sum(skipped.skipped) > 0
    assert sum(computed.skipped) == 0
    assert set(skipped.validated) == {0}
    assert skipped.off() == 0
    assert_same_weights(weights(skipped), weights(computed))


@pytest.mark.parametrize("door", DOORS)
def test_the_micro_batches_of_a_window_skip_the_same(door: str) -> None:
    counts = fitted(door, LayerGradDrop(0.5, seed=1), accumulate_grad_batches=3).skipped
    assert [len(set(counts[start : start + 3])) for start in (0, 3, 6)] == [1, 1, 1]
    assert len(set(counts)) > 1
    assert counts[0] == 0  # the first window shows what the loss depends on


@cases("door", DOORS)
@cases("where", ["training_step", "callback"])
def test_an_exception_in_training_leaves_the_model_as_it_was(door: str, where: str) -> None:
    class Failing(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            if where == "callback" and trainer.global_step == 1:
                raise RuntimeError("bad luck")

    task, callbacks = through(door, HeadOnly(), Counting)
    assert isinstance(task, Counting)
    task.fails_at = 4 if where == "training_step" else None
    with pytest.raises(RuntimeError, match="bad luck"):
        trainer(callbacks=[*callbacks, Failing()], accumulate_grad_batches=3).fit(task, loader(), loader(2))
    assert sum(task.skipped) > 0
    assert task.off() == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_trainer_that_fits_again_keeps_one_callback_of_ours(door: str) -> None:
    task, callbacks = through(door, HeadOnly(), Counting)
    run = trainer(callbacks=callbacks)
    for _ in range(3):
        run.fit(task, loader(), loader(2))
        count = len(run.callbacks)  # type: ignore[attr-defined]
    run.fit(task, loader(), loader(2))
    assert len(run.callbacks) == count  # type: ignore[attr-defined]


@pytest.mark.parametrize("door", DOORS)
def test_an_epoch_that_is_cut_short_leaves_the_model_as_it_was(door: str) -> None:
    class Stopping(Callback):
        def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
            trainer.should_stop = arguments[-1] == 3  # the first micro-batch of the second window

    task, callbacks = through(door, HeadOnly(), Counting)
    assert isinstance(task, Counting)
    trainer(callbacks=[*callbacks, Stopping()], accumulate_grad_batches=3).fit(task, loader(), loader(2))
    assert task.skipped[-1] > 0
    assert task.off() == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_resumed_run_skips_and_equals_one_that_never_stopped(door: str, tmp_path: Any) -> None:
    transform = TRANSFORMS["layers"]
    whole = fitted(door, transform, max_epochs=3)
    task, callbacks = through(door, transform, Counting)
    first = trainer(callbacks=callbacks, max_epochs=1)
    first.fit(task, loader(), loader(2))
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed, callbacks = through(door, transform, Counting)
    trainer(callbacks=callbacks, max_epochs=3).fit(resumed, loader(), loader(2), ckpt_path=tmp_path / "last.ckpt")
    assert isinstance(resumed, Counting)
    assert sum(resumed.skipped) > 0
    assert_same_weights(weights(resumed), weights(whole))


@pytest.mark.parametrize("door", DOORS)
def test_a_compiled_task_is_computed_whole(door: str) -> None:
    task, callbacks = through(door, LayerGradDrop(0.5, seed=1), Counting)
    compiled: Any = torch.compile(task, backend="eager")
    with pytest.warns(UserWarning, match="one compiled region"):
        trainer(callbacks=callbacks, limit_train_batches=2).fit(compiled, loader())
