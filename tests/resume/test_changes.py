"""Changes between a run and its resume: they act as documented, or are refused."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from torch.utils.data import DataLoader, Subset

from lightning_sparsegrad import Chain, ConfigurationError, ExactResume, GradDrop, HeadOnly, LayerGradDrop
from lightning_sparsegrad.modules import LinearDecay
from tests.lightning.tasks import DOORS, STRATEGIES, Recording, Regression, Stream, dataset, door_of, through, trainer
from tests.lightning.test_checkpoints import Shrinking
from tests.resume.runs import BATCHES, Sensitive, assert_went_on, every_step, fit, shuffled
from tests.resume.test_exact_resume import own_generator

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@pytest.mark.parametrize("door", DOORS)
def test_another_strategy_starts_at_the_resumed_step(door: str, tmp_path: Path):
    fit(door, Chain({"mask": GradDrop(0.5), "shrink": Shrinking()}), callbacks=every_step(tmp_path))
    now = Chain({"record": Recording(), "mask": LayerGradDrop(0.5), "shrink": Shrinking(), "again": Shrinking()})
    with pytest.warns(UserWarning, match="The strategy changes from `Chain.mask=GradDrop.* to .* at the resumed step"):
        run, _ = fit(door, now, path=tmp_path / "step=10.ckpt")
    bound = door_of(run).gradient_engine.transform
    assert isinstance(bound, Chain)
    record, shrink, again = (bound.transforms[name] for name in ("record", "shrink", "again"))
    assert isinstance(record, Recording)
    assert isinstance(shrink, Shrinking)
    assert isinstance(again, Shrinking)
    assert record.windows[0] == (10, 1)
    assert (shrink.count, again.count) == (3 * BATCHES, 3 * BATCHES - 10)


def test_a_strategy_of_another_class_takes_no_state(tmp_path: Path):
    fit("module", Shrinking(), callbacks=every_step(tmp_path))
    with pytest.warns(UserWarning, match="The strategy changes from `Shrinking..` to `HeadOnly"):
        _, resumed = fit("module", HeadOnly(), path=tmp_path / "step=10.ckpt")
    assert resumed.steps == 3 * BATCHES


def test_the_same_strategy_goes_on_without_a_word(tmp_path: Path):
    fit("module", GradDrop(0.5), callbacks=every_step(tmp_path))
    fit("module", GradDrop(0.5), path=tmp_path / "step=10.ckpt")  # warnings are errors


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_without_states_is_gone_on_from_with_a_warning(tmp_path: Path):
    fit("module", GradDrop(0.5), callbacks=every_step(tmp_path)[:2])
    with pytest.warns(UserWarning, match=r"step=10.ckpt` was written without `ExactResume`"):
        _, resumed = fit("module", GradDrop(0.5), path=tmp_path / "step=10.ckpt")
    assert resumed.steps == 3 * BATCHES


def test_a_fit_without_the_callback_goes_on_as_lightning_does(tmp_path: Path):
    fit("module", GradDrop(0.5), callbacks=every_step(tmp_path))
    _, resumed = fit("module", GradDrop(0.5), path=tmp_path / "epoch=1.ckpt", callbacks=[])
    assert resumed.steps == 3 * BATCHES
    assert len(resumed.seen) == BATCHES


class Once:
    """Batches that cannot be read a second time."""

    def __init__(self) -> None:
        self.batches = iter(DataLoader(dataset(3 * BATCHES), batch_size=2))

    def __iter__(self) -> Iterator[Any]:
        for _ in range(BATCHES):
            yield next(self.batches)


def test_what_cannot_be_read_again_trains_and_is_refused_within_an_epoch(tmp_path: Path):
    _, whole = fit("module", GradDrop(0.5), data=Once(), callbacks=every_step(tmp_path), max_epochs=2)
    assert whole.seen[:BATCHES] == [float(inputs.sum()) for inputs, _ in DataLoader(dataset(BATCHES), batch_size=2)]
    fit("module", GradDrop(0.5), data=Once(), path=tmp_path / "epoch=0.ckpt", max_epochs=2)
    with pytest.raises(ConfigurationError, match=r"to resume within an epoch. Found `Once`"):
        fit("module", GradDrop(0.5), data=Once(), path=tmp_path / "step=3.ckpt", max_epochs=2)


def test_another_number_of_loaders_is_refused(tmp_path: Path):
    fit("module", GradDrop(0.5), callbacks=every_step(tmp_path))
    two = [DataLoader(dataset(BATCHES), batch_size=2) for _ in range(2)]
    with pytest.raises(ConfigurationError, match="The training should read 1 loader, as in the previous run"):
        fit("module", GradDrop(0.5), data=two, path=tmp_path / "step=3.ckpt")


@pytest.mark.parametrize(
    ("before", "now", "door"), [(shuffled, own_generator, "module"), (own_generator, shuffled, "callback")]
)
def test_other_generators_of_the_training_data_are_refused(
    before: Callable[[], Any], now: Callable[[], Any], door: str, tmp_path: Path, subtests: pytest.Subtests
):
    fit(door, GradDrop(0.5), data=before(), callbacks=every_step(tmp_path), max_epochs=2)
    given = "`generator`, `sampler.generator`"
    listed = f"{'none' if before is shuffled else given}. Found {'none' if now is shuffled else given}."
    match = f"the generators and states of the run it resumes: {listed}"
    for name in ("step=3", "step=10", "epoch=0"):
        with subtests.test(name), pytest.raises(ConfigurationError, match=match):
            fit(door, GradDrop(0.5), data=now(), path=tmp_path / f"{name}.ckpt", max_epochs=2)


def test_other_generators_of_the_validation_data_begin_anew(tmp_path: Path):
    class Validated(Sensitive):
        def val_dataloader(self) -> Any:
            return DataLoader(dataset(2), batch_size=2, generator=torch.Generator())

    fit("module", GradDrop(0.5), callbacks=every_step(tmp_path), max_epochs=2)
    task, _ = through("module", GradDrop(0.5), Validated)
    run = trainer(callbacks=[ExactResume()], max_epochs=2)
    with pytest.warns(UserWarning, match=r"The validation data start again. .* Found `generator`"):
        run.fit(task, shuffled(), ckpt_path=tmp_path / "step=10.ckpt")
    assert run.global_step == 2 * BATCHES


def test_another_amount_of_data_is_refused_within_an_epoch(tmp_path: Path, subtests: pytest.Subtests):
    fit("module", GradDrop(0.5), callbacks=every_step(tmp_path), max_epochs=2)
    for samples, size, value in ((12, 2, "length = 6"), (14, 4, "length = 4"), (7, 1, "batch_size = 1")):

        def other(samples: int = samples, size: int = size) -> Any:
            return DataLoader(Subset(dataset(BATCHES), range(samples)), batch_size=size, shuffle=True)

        with subtests.test(value):
            with pytest.raises(
                ConfigurationError, match=f"to resume within an epoch, as in the previous run. Found `{value}`"
            ):
                fit("module", GradDrop(0.5), data=other(), path=tmp_path / "step=3.ckpt", max_epochs=2)
            _, resumed = fit("module", GradDrop(0.5), data=other(), path=tmp_path / "epoch=0.ckpt", max_epochs=2)
            assert len(resumed.seen) == len(other())


def test_data_without_a_length_that_became_less_is_refused(tmp_path: Path):
    fit("module", GradDrop(0.5), data=DataLoader(Stream(), batch_size=2), callbacks=every_step(tmp_path), max_epochs=1)
    short = type("Short", (Stream,), {"__iter__": lambda self: islice(Stream.__iter__(self), 2)})
    with pytest.raises(ConfigurationError, match=r"the 3 batches already used. Found 1"):
        fit(
            "module", GradDrop(0.5), data=DataLoader(short(), batch_size=2), path=tmp_path / "step=3.ckpt", max_epochs=1
        )


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
def test_a_training_step_that_loads_its_batches_is_refused():
    class Loading(Regression):
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            return self.loss(next(dataloader_iter)[0])

    with pytest.raises(ConfigurationError, match=r"should be a batch for an exact resume. Found `dataloader_iter`"):
        fit("callback", GradDrop(0.5), kind=Loading)


class Decaying(Sensitive):
    def configure_optimizers(self) -> Any:
        (optimizer,), _ = super().configure_optimizers()
        scheduler = LinearDecay(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def test_the_steps_may_be_counted_before_the_data_goes_on(tmp_path: Path):
    _, whole = fit("module", GradDrop(0.5), callbacks=every_step(tmp_path), kind=Decaying)
    for step in (3, 7, 10):
        _, resumed = fit("module", GradDrop(0.5), path=tmp_path / f"step={step}.ckpt", kind=Decaying)
        assert_went_on(resumed, whole, tmp_path / f"step={step}.ckpt")


def test_more_epochs_follow_the_new_length(tmp_path: Path):
    fit("module", GradDrop(0.5), callbacks=every_step(tmp_path), kind=Decaying, max_epochs=2)
    run, _ = fit("module", GradDrop(0.5), path=tmp_path / "epoch=0.ckpt", kind=Decaying, max_epochs=4, max_steps=20)
    scheduler = run.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, LinearDecay)
    assert scheduler.total_steps == 20
    assert scheduler.get_last_lr() == [0.0]
    rates = deepcopy(scheduler)
    rates.last_epoch = BATCHES
    assert rates.get_lr() == [0.01 * (20 - BATCHES) / 20]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
def test_a_search_for_the_learning_rate_goes_before_it():
    class Searching(Sensitive):
        lr = 0.01

    finder = LearningRateFinder(num_training_steps=3, update_attr=False, early_stop_threshold=None)
    _, result = fit("callback", GradDrop(0.5), kind=Searching, callbacks=[finder, ExactResume()])
    assert result.steps == 3 * BATCHES


def test_it_needs_no_transform(tmp_path: Path):
    _, whole = fit("callback", GradDrop(0.0), callbacks=every_step(tmp_path))
    _, resumed = fit("callback", GradDrop(0.0), path=tmp_path / "step=10.ckpt", callbacks=[ExactResume()])
    assert_went_on(resumed, whole, tmp_path / "step=10.ckpt")


def test_strategies_are_stored_by_what_they_print(tmp_path: Path):
    fit("module", STRATEGIES["mask and clip"], callbacks=every_step(tmp_path), max_epochs=1)
    stored = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["lightning_sparsegrad"]
    assert stored["strategy"] == repr(STRATEGIES["mask and clip"])
