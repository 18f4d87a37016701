"""The files and logs of `GradientMonitor`, against the gradients before and after each step."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    ExactResume,
    GradDrop,
    GradientMonitor,
    Gradients,
    GradientTransform,
    GradientTransformCallback,
    Identity,
    NamedParameters,
    Window,
)
from lightning_sparsegrad.callbacks._history import read_history
from tests.lightning.tasks import BATCHES, WIDTH, Regression, fit, loader, through, trainer
from tests.transforms.small import on_one_thread

BOTH = Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.1)})
_ = pytest.fixture(autouse=True, scope="module")(on_one_thread)


class Kept(GradientTransformCallback):
    """Keeps the gradients before and after the transform of each step."""

    def __init__(self, transform: GradientTransform) -> None:
        super().__init__(transform)
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = _gradients(pl_module)
        super().on_after_backward(trainer, pl_module)
        if self.gradient_engine.applied:
            self.seen.append((before, _gradients(pl_module)))


def _gradients(module: LightningModule) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def monitored(folder: Path, transform: GradientTransform = BOTH, **arguments: Any) -> tuple[pd.DataFrame, Kept]:
    seed_everything(3, verbose=False)
    kept, monitor = Kept(transform), GradientMonitor(2, path=str(folder / "gradients.parquet"))
    run = trainer(callbacks=[kept, monitor], max_epochs=2, **arguments)
    run.fit(Regression(), loader())
    assert monitor.path is not None
    return read_history(monitor.path), kept


def test_the_file_has_a_row_for_each_component_and_step(tmp_path: Path) -> None:
    history, kept = monitored(tmp_path)
    names = [name for name, _ in Regression().named_parameters()]
    steps = list(range(1, len(kept.seen), 2))
    assert list(history["step"].unique()) == steps
    assert list(history["component"]) == names * len(steps)
    for row in history.itertuples():
        before, after = (gradients[row.component] for gradients in kept.seen[row.step])
        assert row.norm_before == pytest.approx(float(before.norm()), rel=1e-5)
        assert row.norm_after == pytest.approx(float(after.norm()), rel=1e-5)
        assert row.kept == pytest.approx(float(after.count_nonzero() / before.count_nonzero()))
        assert row.epoch == row.step // (len(kept.seen) // 2)
        assert bool(row.clipped) == (row.norm_after > 0.0999)
        assert row.threshold == pytest.approx(0.1)
    assert set(history["clipped"]) == {0, 1}


def test_a_window_of_several_batches_is_one_step(tmp_path: Path) -> None:
    history, kept = monitored(tmp_path, accumulate_grad_batches=2)
    for row in history.itertuples():
        before, _ = (gradients[row.component] for gradients in kept.seen[row.step])
        assert row.norm_before == pytest.approx(float(before.norm()), rel=1e-5)


def test_the_layers_are_named(tmp_path: Path) -> None:
    history, _ = monitored(tmp_path)
    assert dict(zip(history["component"], history["layer"], strict=True)) == {
        name: "head" if "head" in name else f"block {name.split('.')[2]}" for name, _ in Regression().named_parameters()
    }


@pytest.mark.parametrize("door", ["module", "callback"])
def test_loggers_get_totals(tmp_path: Path, door: str) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    fit(door, BOTH, callbacks=[GradientMonitor(1)], logger=logger, log_every_n_steps=2)
    logged = pd.read_csv(tmp_path / "metrics.csv").dropna(subset=["monitor/kept"])
    history = read_history(tmp_path / "gradients.parquet")
    assert list(logged["step"]) == [step for step in history["step"].unique() if step % 2]
    for row in logged.to_dict("records"):
        at = history[history["step"] == row["step"]]
        assert row["monitor/norm_before"] == pytest.approx(float((at["norm_before"] ** 2).sum() ** 0.5), rel=1e-5)
        assert row["monitor/norm_after"] == pytest.approx(float((at["norm_after"] ** 2).sum() ** 0.5), rel=1e-5)
        assert row["monitor/clipped"] == pytest.approx(float(at["clipped"].mean()), rel=1e-5)
        assert row["monitor/kept"] == pytest.approx(float(at["kept"].mean()), rel=1e-5)
        assert row["monitor/threshold"] == pytest.approx(0.1, rel=1e-5)


def test_csv_holds_the_same(tmp_path: Path) -> None:
    parquet, _ = monitored(tmp_path)
    seed_everything(3, verbose=False)
    monitor = GradientMonitor(2, path=str(tmp_path / "gradients.csv"))
    trainer(callbacks=[GradientTransformCallback(BOTH), monitor], max_epochs=2).fit(Regression(), loader())
    pd.testing.assert_frame_equal(read_history(tmp_path / "gradients.csv"), parquet, check_dtype=False, rtol=1e-6)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_a_resumed_fit_has_all_rows_in_a_file_of_its_own(tmp_path: Path, suffix: str) -> None:
    whole, _ = monitored(tmp_path)
    path = str(tmp_path / f"resumed.{suffix}")

    def run(epochs: int, checkpoint: str | None) -> Trainer:
        seed_everything(3, verbose=False)
        task, callbacks = through("callback", deepcopy(BOTH))
        saving = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=3)
        callbacks += [GradientMonitor(2, path=path), saving, ExactResume()]
        done = trainer(callbacks=callbacks, max_epochs=epochs, enable_checkpointing=True)
        done.fit(task, loader(), ckpt_path=checkpoint)
        return done

    run(2, None)  # it goes beyond the checkpoint that is gone on from
    earlier = sorted((tmp_path / "checkpoints").glob("*.ckpt"))[0]
    earlier_release = read_history(path).drop(columns="threshold")
    earlier_release.to_csv(path, index=False) if suffix == "csv" else earlier_release.to_parquet(path, index=False)
    before = Path(path).read_bytes()
    run(2, str(earlier))
    assert Path(path).read_bytes() == before
    resumed = read_history(tmp_path / f"resumed-v1.{suffix}")
    assert list(resumed["step"]) == list(whole["step"])
    assert list(resumed["threshold"].isna()) == list(resumed["step"] < 3)


def test_a_second_fit_goes_on_with_the_file(tmp_path: Path) -> None:
    whole, _ = monitored(tmp_path)
    seed_everything(3, verbose=False)
    path, task = str(tmp_path / "twice.parquet"), Regression()
    run = trainer(callbacks=[GradientTransformCallback(deepcopy(BOTH)), GradientMonitor(2, path=path)])
    run.fit(task, loader())
    run.fit_loop.max_epochs = 2
    run.fit(task, loader())
    assert list(read_history(path)["step"]) == list(whole["step"])


def test_the_file_of_another_fit_stays(tmp_path: Path) -> None:
    monitored(tmp_path)
    before = (tmp_path / "gradients.parquet").read_bytes()
    again, _ = monitored(tmp_path)
    assert (tmp_path / "gradients.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradients-v1.parquet", "gradients.parquet"]
    pd.testing.assert_frame_equal(read_history(tmp_path / "gradients.parquet"), again)


def test_a_fit_in_which_nothing_was_seen_writes_nothing(tmp_path: Path) -> None:
    monitor = GradientMonitor(100, path=str(tmp_path / "gradients.parquet"))
    with pytest.warns(UserWarning, match="recorded no step"):
        trainer(callbacks=[GradientTransformCallback(Identity()), monitor]).fit(Regression(), loader())
    assert not (tmp_path / "gradients.parquet").exists()


def test_csv_holds_names_of_layers_that_cannot_be_found(tmp_path: Path) -> None:
    task, monitor = Regression(), GradientMonitor(1, path=str(tmp_path / "gradients.csv"))
    task.network = nn.Sequential(nn.Linear(WIDTH, 1))  # type: ignore[assignment]
    trainer(callbacks=[GradientTransformCallback(Identity()), monitor]).fit(task, loader())
    assert set(read_history(tmp_path / "gradients.csv")["layer"]) == {""}


class TwoOptimizers(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        (callback,) = (each for each in self.trainer.callbacks if isinstance(each, GradientTransformCallback))  # type: ignore[attr-defined]
        self.zero_grad()
        self.manual_backward(self.loss(batch))
        callback.apply_gradient_transform_(self.trainer, self)
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [SGD(part.parameters(), lr=0.01) for part in (self.network.blocks, self.network.head)]


def test_steps_of_two_optimizers_in_a_window_are_not_missed(tmp_path: Path) -> None:
    monitor = GradientMonitor(4, path=str(tmp_path / "gradients.csv"))
    trainer(callbacks=[GradientTransformCallback(Identity()), monitor]).fit(TwoOptimizers(), loader())
    assert list(read_history(tmp_path / "gradients.csv")["step"].unique()) == [4, 8, 12]


class LastIsNone(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx == BATCHES - 1 else super().training_step(batch, batch_idx)


@pytest.mark.parametrize("door", ["module", "callback"])
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_windows_that_end_without_a_loss_are_seen(tmp_path: Path, door: str) -> None:
    monitor = GradientMonitor(1, path=str(tmp_path / "gradients.csv"))
    fit(door, Identity(), LastIsNone, callbacks=[monitor], accumulate_grad_batches=4, max_epochs=2)
    seen = read_history(tmp_path / "gradients.csv").drop_duplicates("step")
    assert dict(zip(seen["step"], seen["epoch"], strict=True)) == {0: 0, 1: 0, 2: 1, 3: 1}


class Undefined(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return self.loss(batch) * (float("nan") if batch_idx == 3 else 1.0)


@pytest.mark.filterwarnings("ignore::lightning_sparsegrad.loops._divergence.DivergenceWarning")
def test_totals_do_not_hide_what_is_undefined(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    fit(
        "callback",
        ComponentNormClip(1.0),
        Undefined,
        callbacks=[GradientMonitor(1)],
        logger=logger,
        log_every_n_steps=1,
    )
    logged = pd.read_csv(tmp_path / "metrics.csv").dropna(subset=["monitor/kept"])
    assert list(logged["monitor/norm_before"].isna()) == [step > 2 for step in range(BATCHES)]
    assert list(logged["monitor/norm_after"].isna()) == [step > 2 for step in range(BATCHES)]


class NotYet(GradientTransform):
    """A clip that has a threshold for two components only, and knows one of them."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.names = list(parameters)[:2]

    def apply_(self, gradients: Gradients, window: Window) -> None:
        pass

    @property
    def thresholds(self) -> dict[str, Tensor]:
        return dict(zip(self.names, torch.tensor([torch.inf, 3.0]), strict=True))


def test_a_threshold_may_be_infinite_or_undefined(tmp_path: Path) -> None:
    logger, path = CSVLogger(tmp_path, name="", version=""), tmp_path / "gradients.csv"
    fit("callback", NotYet(), callbacks=[GradientMonitor(1, path=str(path))], logger=logger, log_every_n_steps=1)
    logged = pd.read_csv(tmp_path / "metrics.csv").dropna(subset=["monitor/kept"])
    assert set(logged["monitor/threshold"]) == {3.0}
    for _, rows in read_history(path).groupby("step"):
        assert list(rows["threshold"])[:2] == [torch.inf, 3.0]
        assert rows["threshold"][2:].isna().all()


class Frozen(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.network.blocks.requires_grad_(False)


def test_totals_are_of_what_has_a_gradient(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    fit("callback", ComponentNormClip(1e-4), Frozen, callbacks=[GradientMonitor(1)], logger=logger, log_every_n_steps=1)
    logged = pd.read_csv(tmp_path / "metrics.csv").dropna(subset=["monitor/kept"])
    assert set(logged["monitor/clipped"]) == set(logged["monitor/kept"]) == {1.0}


class Broken(Regression):
    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == 4:
            raise RuntimeError("a bug")


def test_what_was_seen_before_an_error_is_written(tmp_path: Path) -> None:
    monitor = GradientMonitor(1, path=str(tmp_path / "gradients.parquet"))
    with pytest.raises(RuntimeError, match="a bug"):
        trainer(callbacks=[GradientTransformCallback(Identity()), monitor]).fit(Broken(), loader())
    assert list(read_history(tmp_path / "gradients.parquet")["step"].unique()) == [0, 1, 2, 3]


def test_without_a_strategy_it_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"beside a `GradientTransformCallback`.*Found neither"):
        trainer(callbacks=[GradientMonitor()]).fit(Regression(), loader())


def test_a_second_monitor_is_refused() -> None:
    callbacks = [GradientTransformCallback(Identity()), GradientMonitor(), GradientMonitor(5)]
    with pytest.raises(ConfigurationError, match=r"`callbacks` .* should hold one `GradientMonitor`\. Found another"):
        trainer(callbacks=callbacks).fit(Regression(), loader())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`every_n_steps` should be a positive integer\. Found .* = 0`"):
        GradientMonitor(0)
    with pytest.raises(ConfigurationError, match=r"Parameter `path` should end with \.parquet or \.csv\. Found"):
        GradientMonitor(path="gradients.json")
    with pytest.raises(ConfigurationError, match="Parameter `components` should be one of"):
        GradientMonitor(components="tensors")  # type: ignore[arg-type]


def test_the_weights_are_those_of_a_fit_without_it(tmp_path: Path) -> None:
    _, kept = monitored(tmp_path)
    seed_everything(3, verbose=False)
    alone = Kept(BOTH)
    trainer(callbacks=[alone], max_epochs=2).fit(Regression(), loader())
    for (_, after), (_, expected) in zip(kept.seen, alone.seen, strict=True):
        assert all(torch.equal(after[name], expected[name]) for name in expected)
