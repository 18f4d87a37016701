"""Searches of Lightning's tuner use the strategy, and leave the fit unchanged, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ExactResume,
    GradDrop,
    GradientMonitor,
    GradientTransform,
    GradientTransformCallback,
    HeadOnly,
    Identity,
    Linear,
    PretrainedDistance,
    SparseMask,
    SpikeSkip,
)
from lightning_sparsegrad.errors import ConfigurationError
from tests.lightning.tasks import (
    DOORS,
    Batch,
    Regression,
    by_turns,
    dataset,
    door_of,
    loader,
    some_long,
    through,
    trainer,
)
from tests.resume.runs import BATCHES, FitResult, Sensitive, assert_same_bits, fit, shuffled

pytestmark = [
    pytest.mark.filterwarnings("ignore:Failed to compute suggestion"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:.*ReduceLROnPlateau conditioned on metric val/loss"),
    pytest.mark.filterwarnings("ignore:Parameter `monitor` of `ReduceLROnPlateau` should be a name that is logged"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

TRANSFORMS: dict[str, GradientTransform] = {
    "schedule": GradDrop(Linear(0.2, 0.8)),
    "head": HeadOnly(),
    "clip": ComponentNormClip(0.02),
}


class Tuned(Sensitive):
    """Has a learning rate to find, and data with random states of every kind."""

    lr = 0.01

    def configure_optimizers(self) -> Any:
        optimizers, schedulers = super().configure_optimizers()
        for group in optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] = self.lr
        return optimizers, schedulers


class Decayed(Sensitive):
    """Makes its optimizer and its schedule as people do, with an `lr` that it does not save."""

    lr = 0.01

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Data(LightningDataModule):
    """Has a batch size to find."""

    def __init__(self, batch_size: int, batches: int = 32) -> None:
        super().__init__()
        self.batch_size, self.rows = batch_size, dataset(batches)
        self.generator = torch.Generator().manual_seed(7)
        self.sizes: list[int] = []

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, self.batch_size, shuffle=True, generator=self.generator)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(dataset(2), self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader


def rates(**arguments: Any) -> LearningRateFinder:
    return LearningRateFinder(num_training_steps=5, early_stop_threshold=None, **arguments)


def generated() -> DataLoader[Any]:
    return DataLoader(dataset(BATCHES), 2, shuffle=True, generator=torch.Generator().manual_seed(3))


def assert_same_fit(searched: FitResult, plain: FitResult) -> None:
    assert searched.seen[-len(plain.seen) :] == plain.seen
    assert len(searched.seen) > len(plain.seen)
    assert searched.rows == plain.rows
    assert searched.steps == plain.steps
    assert_same_bits(searched.states, plain.states)


# ---------------------------------------------------------------- with the strategy
@pytest.mark.parametrize(("exact", "door"), by_turns([True, False], DOORS))
def test_a_search_for_the_learning_rate_goes_through_the_strategy(exact: bool, door: str):
    def losses(transform: GradientTransform) -> list[float]:
        task, callbacks = through(door, transform, Tuned)
        run = trainer(callbacks=[*callbacks, *([ExactResume()] if exact else [])])
        sizes = Tuner(run).lr_find(task, loader(), min_lr=1.0, max_lr=2.0, num_training=6, early_stop_threshold=None)
        assert sizes is not None
        return [float(loss) for loss in sizes.results["loss"]]

    torch.manual_seed(0)
    frozen = losses(ComponentNormClip(1e-12))
    torch.manual_seed(0)
    free = losses(Identity())
    assert frozen[0] == free[0]
    assert frozen[-1] < 0.1 * free[-1]  # at these rates a fit that is not clipped diverges


@pytest.mark.parametrize("door", DOORS)
def test_each_trial_begins_with_the_first_mask_over_the_length_of_the_fit(door: str):
    steps: list[tuple[int, int | None]] = []

    class Noting(GradDrop):
        def apply_(self, gradients: Any, window: Any) -> None:
            steps.append((window.step, window.total_steps))
            super().apply_(gradients, window)

    task, callbacks = through(door, Noting(Linear(0.2, 0.8)), Tuned)
    finder = BatchSizeFinder(max_trials=2, steps_per_trial=3, init_val=2)
    trainer(callbacks=[*callbacks, finder], max_epochs=1).fit(task, datamodule=Data(2, batches=8))
    assert steps[:6] == [(0, 8), (1, 8), (2, 8)] * 2
    assert steps[6:] == [(step, 4) for step in range(4)]  # batches of 4


# ---------------------------------------------------------------- and the fit after it
@pytest.mark.parametrize(("exact", "name", "door"), by_turns([True, False], TRANSFORMS, DOORS))
def test_a_fit_after_a_search_for_the_learning_rate_is_the_same(exact: bool, name: str, door: str):
    results = []
    for finders in ([], [rates(update_attr=False)]):
        callbacks = [*finders, *([ExactResume()] if exact else [])]
        run, result = fit(door, TRANSFORMS[name], callbacks=callbacks, kind=Tuned, accumulate_grad_batches=2)
        result.states["engine"] = door_of(run).gradient_engine.state_dict()
        results.append(result)
    assert_same_fit(*reversed(results))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # Lightning begins such a search with an empty epoch
@pytest.mark.parametrize("data", [shuffled, generated])
def test_it_is_the_same_with_a_search_in_the_middle(data: Callable[[], DataLoader[Any]], tmp_path: Path):
    class Later(LearningRateFinder):
        def on_fit_start(self, *_: Any) -> None:
            pass

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                engine = door_of(trainer).gradient_engine
                self.lr_find(trainer, pl_module)
                assert door_of(trainer).gradient_engine is engine

    keeping = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    later = Later(num_training_steps=3, update_attr=False, early_stop_threshold=None)
    # with a validation, Lightning takes such a search for the end of the training
    arguments: dict[str, Any] = {"kind": Tuned, "limit_val_batches": 0}
    for door in DOORS:
        _, plain = fit(door, TRANSFORMS["schedule"], data=data(), **arguments)
        searching = [later, keeping, ExactResume()]
        _, searched = fit(door, TRANSFORMS["schedule"], callbacks=searching, data=data(), **arguments)
        more = len(searched.seen) - len(plain.seen)
        assert more > 0
        del searched.seen[BATCHES : BATCHES + more]
        assert searched.seen == plain.seen
        assert searched.rows == plain.rows
        assert_same_bits(searched.states, plain.states)
        _, resumed = fit(door, TRANSFORMS["schedule"], path=tmp_path / "step=10.ckpt", data=data(), **arguments)
        assert resumed.seen == plain.seen[10:]
        assert_same_bits(resumed.states, plain.states)
        for path in tmp_path.iterdir():
            path.unlink()


def test_generators_of_the_data_are_where_they_were():
    _, plain = fit("module", TRANSFORMS["clip"], kind=Tuned, data=generated())
    _, searched = fit(
        "module", TRANSFORMS["clip"], kind=Tuned, data=generated(), callbacks=[rates(update_attr=False), ExactResume()]
    )
    assert_same_fit(searched, plain)


@pytest.mark.parametrize("loads_before", [True, False])
def test_with_workers_that_outlive_an_epoch_it_is_the_same(loads_before: bool):
    class Counting(Tuned):
        def configure_optimizers(self) -> Any:
            if loads_before:
                self.trainer.fit_loop.setup_data()  # as schedules over the length of the fit do
            return super().configure_optimizers()

    def result(*finders: Callback) -> FitResult:
        data = shuffled(num_workers=1, persistent_workers=True)
        return fit("module", TRANSFORMS["clip"], kind=Counting, data=data, callbacks=[*finders])[1]

    assert_same_fit(result(rates(update_attr=False)), result())


def test_a_metric_that_no_epoch_ends_has_seen_the_fit_alone():
    class Measuring(Regression):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.whole = MeanMetric()

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            self.whole.update(1.0)
            return super().training_step(batch, batch_idx)

    task, callbacks = through("module", Identity(), Measuring)
    trainer(callbacks=[*callbacks, rates(update_attr=False)]).fit(task, loader(), loader(2))
    assert task.whole.update_count == BATCHES
    assert task.whole.weight == BATCHES


@pytest.mark.parametrize(("exact", "name", "door"), by_turns([True, False], ["schedule", "clip"], DOORS))
def test_a_fit_after_a_search_for_the_batch_size_is_the_same(exact: bool, name: str, door: str):
    results = []
    for size, finders in ((4, []), (2, [BatchSizeFinder(max_trials=2, init_val=2)])):
        torch.manual_seed(1)
        task, callbacks = through(door, TRANSFORMS[name], Tuned)
        data = Data(size, batches=6)
        run = trainer(callbacks=[*callbacks, *finders, *([ExactResume()] if exact else [])], max_epochs=2)
        run.fit(task, datamodule=data)
        assert data.batch_size == 4
        results.append((run.global_step, {**task.state_dict()}, run.optimizers[0].state_dict(), torch.get_rng_state()))
    assert_same_bits(results[1], results[0])


@pytest.mark.parametrize("door", DOORS)
def test_what_was_found_is_what_the_fit_uses(door: str):
    class Scheduled(Regression):
        lr = 0.5

        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), lr=self.lr)
            schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    task, callbacks = through(door, Identity(), Scheduled)
    finder = LearningRateFinder(min_lr=1e-4, max_lr=1e-2, num_training_steps=20, early_stop_threshold=None)
    run = trainer(callbacks=[*callbacks, finder])
    run.fit(task, loader(20))
    assert task.lr < 0.5
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(task.lr / 21)


def test_a_learning_rate_that_the_module_does_not_use_is_told():
    task, callbacks = through("callback", Identity(), type("Unused", (Sensitive,), {"lr": 0.5}))
    finder = LearningRateFinder(max_lr=0.5, num_training_steps=20, early_stop_threshold=None)  # it never tries 0.01
    with pytest.warns(
        UserWarning, match="Unused.configure_optimizers` should create the optimizer with the learning rate"
    ):
        trainer(callbacks=[*callbacks, finder]).fit(task, loader(20), loader(2))


@pytest.mark.parametrize("door", DOORS)
def test_the_tuner_leaves_a_trainer_that_fits(door: str):
    task, callbacks = through(door, TRANSFORMS["head"], Tuned)
    data, run = Data(2), trainer(callbacks=[*callbacks, ExactResume()])
    assert Tuner(run).scale_batch_size(task, datamodule=data, max_trials=3) == 8
    assert Tuner(run).lr_find(task, datamodule=data, num_training=5) is not None
    run.fit(task, datamodule=data)
    assert run.global_step == 8
    assert door_of(run).gradient_engine.current is None


# ---------------------------------------------------------------- what goes wrong inside
@pytest.mark.parametrize("door", DOORS)
def test_a_search_ends_where_the_loss_does_and_the_policy_is_the_fits(door: str):
    kind = type("Finite", (Regression,), {"lr": 0.01})
    task, callbacks = through(door, Identity(), kind, nonfinite="raise")
    finder = LearningRateFinder(min_lr=1.0, max_lr=1e30, num_training_steps=30, early_stop_threshold=None)
    run = trainer(callbacks=[*callbacks, finder], max_steps=1)
    run.fit(task, loader(40), loader(2))
    assert not all(torch.isfinite(torch.tensor(finder.optimal_lr.results["loss"])))  # type: ignore[union-attr]
    assert run.global_step == 1

    class Infinite(Regression):
        def loss(self, batch: Batch) -> Tensor:
            return super().loss(batch) * float("inf")

    task, callbacks = through(door, Identity(), Infinite, nonfinite="raise")
    with pytest.raises(FloatingPointError):
        trainer(callbacks=[*callbacks, rates(update_attr=False)]).fit(task, loader(), loader(2))


@pytest.mark.parametrize("door", some_long(DOORS, ["module"]))
def test_a_search_goes_on_where_a_fit_would_end_with_too_many_spikes(door: str):
    class Growing(Tuned):
        windows = 0

        def loss(self, batch: Batch) -> Tensor:
            self.windows += 1
            return super().loss(batch) * 10.0**self.windows

    strategy = SpikeSkip(1.0, history=2, warmup_steps=2, max_in_a_row=1)
    task, callbacks = through(door, strategy, Growing)
    data, run = Data(2), trainer(callbacks=callbacks)
    assert Tuner(run).lr_find(task, datamodule=data, num_training=6, early_stop_threshold=None) is not None
    task.windows = 0
    Tuner(run).scale_batch_size(task, datamodule=data, max_trials=1, steps_per_trial=6)
    task.windows = 0
    with pytest.raises(FloatingPointError, match="at most `max_in_a_row = 1` windows in a row"):
        run.fit(task, datamodule=data)


@pytest.mark.parametrize("door", some_long(DOORS, ["module"]))
def test_a_search_steps_where_a_fit_would_calibrate(door: str):
    stepped = []

    class Watched(Tuned):
        def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
            super().on_before_optimizer_step(optimizer)
            stepped.append(any(parameter.grad is not None for parameter in self.parameters()))

    strategy = SparseMask(0.5, score="fisher", exclude_head=False, calibration_windows=100)
    task, callbacks = through(door, strategy, Watched)
    Tuner(trainer(callbacks=callbacks)).scale_batch_size(task, datamodule=Data(2), max_trials=1, steps_per_trial=3)
    assert stepped == [True] * 3
    assert strategy.score == "fisher"


def test_a_search_beside_a_random_mask_draws_another_one():
    drawn = SparseMask(0.5, score="random", exclude_head=False, seed=1)
    task, callbacks = through("module", Chain([drawn, SparseMask(0.5, exclude_head=False)]), Tuned)
    Tuner(trainer(callbacks=callbacks)).lr_find(task, loader(2), num_training=3, update_attr=False)


@pytest.mark.parametrize("door", DOORS)
def test_a_batch_too_large_for_the_memory_ends_a_trial_and_freezes_nothing(door: str):
    class Large(Tuned):
        def loss(self, batch: Batch) -> Tensor:
            loss = super().loss(batch)
            if len(batch[0]) > 4 and self.trainer.global_step:  # after the first window, in which all is computed
                raise RuntimeError("CUDA out of memory.")
            return loss

    task, callbacks = through(door, TRANSFORMS["head"], Large)
    data = Data(2)
    trainer(callbacks=[*callbacks, BatchSizeFinder(max_trials=4, steps_per_trial=2)]).fit(task, datamodule=data)
    assert data.batch_size == 4
    assert all(parameter.requires_grad for parameter in task.parameters())


@pytest.mark.parametrize("kind", [LearningRateFinder, BatchSizeFinder])
def test_measurements_and_checkpoints_are_the_fits_alone(kind: type[Callback], tmp_path: Path):
    monitor = GradientMonitor(every_n_steps=1, path=str(tmp_path / "gradients.csv"))
    distance = PretrainedDistance(every_n_steps=1, path=str(tmp_path / "distance.csv"))
    keeping = ModelCheckpoint(tmp_path, monitor="val/loss", save_top_k=-1, filename="{step}")
    finder = rates(update_attr=False) if kind is LearningRateFinder else BatchSizeFinder(max_trials=2)
    task, callbacks = through("module", TRANSFORMS["clip"], Tuned)
    run = trainer(
        callbacks=[*callbacks, finder, monitor, distance, keeping, ExactResume()],
        default_root_dir=tmp_path,
        enable_checkpointing=True,
    )
    run.fit(task, datamodule=Data(4, batches=6))
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"step=3.ckpt"}  # behind the only validation
    rows = (tmp_path / "gradients.csv").read_text().splitlines()[1:]
    assert sorted({int(row.split(",")[0]) for row in rows}) == [0, 1, 2]


# ---------------------------------------------------------------- resumes
def test_a_resumed_fit_does_not_search_for_a_learning_rate(tmp_path: Path):
    keeping = ModelCheckpoint(tmp_path, every_n_train_steps=10, save_top_k=-1, filename="{step}")
    _, whole = fit("module", TRANSFORMS["schedule"], kind=Tuned, callbacks=[rates(), keeping, ExactResume()])
    path = tmp_path / "step=10.ckpt"
    _, resumed = fit("module", TRANSFORMS["schedule"], kind=Tuned, path=path, callbacks=[rates(), ExactResume()])
    assert resumed.seen == whole.seen[-len(resumed.seen) :]
    assert len(resumed.seen) == 3 * BATCHES - 10
    assert_same_bits(resumed.states, whole.states)


@pytest.mark.parametrize("with_finder", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_a_resumed_fit_keeps_the_learning_rate_that_was_found(exact: bool, with_finder: bool, tmp_path: Path):
    keeping = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=True)
    more: list[Callback] = [ExactResume()] if exact else []

    def finder() -> LearningRateFinder:
        return LearningRateFinder(num_training_steps=20, early_stop_threshold=None, min_lr=1e-4, max_lr=0.1)

    _, whole = fit("module", TRANSFORMS["schedule"], kind=Decayed, callbacks=[finder(), keeping, *more])
    finders: list[Callback] = [finder()] if with_finder else []
    path = tmp_path / "epoch=0.ckpt"
    _, resumed = fit("module", TRANSFORMS["schedule"], kind=Decayed, path=path, callbacks=[*finders, *more])
    (schedule,), (group,) = resumed.states["schedulers"], resumed.states["optimizer"]["param_groups"]
    assert schedule["base_lrs"] == whole.states["schedulers"][0]["base_lrs"] != [Decayed.lr]
    assert group["lr"] == whole.states["optimizer"]["param_groups"][0]["lr"]
    if exact:
        assert_same_bits(resumed.states, whole.states)


def test_a_resumed_fit_searches_for_the_batch_size_and_goes_on(tmp_path: Path):
    def run(path: Path | None) -> dict[str, Any]:
        torch.manual_seed(0 if path is None else 5)
        task, callbacks = through("module", TRANSFORMS["schedule"], Tuned)
        keeping = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
        fitting = trainer(
            callbacks=[*callbacks, BatchSizeFinder(max_trials=2), keeping, ExactResume()],
            max_epochs=2,
            enable_checkpointing=True,
        )
        fitting.fit(task, datamodule=Data(2, batches=6), ckpt_path=path)
        return {"steps": fitting.global_step, "weights": task.state_dict(), "random": torch.get_rng_state()}

    whole = run(None)
    assert whole["steps"] == 6
    assert_same_bits(run(tmp_path / "step=4.ckpt"), whole)


# ---------------------------------------------------------------- evaluation, and subclasses
@pytest.mark.parametrize("method", ["validate", "test"])
def test_an_evaluation_searches_for_its_batch_size(method: str):
    sizes = []
    for size, finders in ((4, []), (1, [BatchSizeFinder(max_trials=2)])):
        torch.manual_seed(0)
        task, callbacks = through("module", TRANSFORMS["clip"], Tuned)
        data, run = Data(size), trainer(callbacks=[*callbacks, ExactResume(), *finders])
        values = getattr(run, method)(task, datamodule=data, verbose=False)
        sizes.append((data.batch_size, values, torch.get_rng_state()))
    assert_same_bits(sizes[1], sizes[0])


def test_a_subclass_with_a_setup_of_its_own_hands_it_on():
    with pytest.raises(ConfigurationError, match=r"`Mine.setup` should call super\(\).setup\(\)"):

        class Mine(GradientTransformCallback):
            def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
                pass
