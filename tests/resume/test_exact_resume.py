"""A run that is resumed from any checkpoint equals the uninterrupted run, bit for bit.

`RESUME_ALL=1 pytest -m resume` resumes every checkpoint of every case; by default, some of them.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, WeightedRandomSampler

from lightning_sparsegrad import ExactResume, Identity
from tests.lightning.tasks import DOORS, STRATEGIES, Resumable, dataset
from tests.lightning.test_checkpoints import RESUMED
from tests.resume.runs import (
    BATCHES,
    THOROUGH,
    FitResult,
    Paired,
    assert_same_bits,
    assert_went_on,
    checkpoints,
    every_step,
    fit,
    pairs,
    shuffled,
    some_checkpoints,
)

MASK_AND_CLIP = STRATEGIES["mask and clip"]

pytestmark = [pytest.mark.resume, pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")]


def assert_resumes(
    folder: Path, door: str, transform: Any, data: Callable[[], Any] = shuffled, count: int = 1, **arguments: Any
) -> FitResult:
    """Assert that a run can be resumed from some of its checkpoints; return what the run came to."""
    _, whole = fit(door, transform, callbacks=every_step(folder), data=data(), **arguments)
    for path in some_checkpoints(folder, count):
        _, resumed = fit(door, transform, path=path, data=data(), **arguments)
        assert_went_on(resumed, whole, path)
    return whole


@pytest.mark.parametrize(("door", "accumulate"), [("module", 1), ("callback", 3)])
def test_every_step(door: str, accumulate: int, tmp_path: Path):
    whole = assert_resumes(tmp_path, door, MASK_AND_CLIP, count=4, accumulate_grad_batches=accumulate)
    assert len(list(checkpoints(tmp_path))) == whole.steps + 3 == (24 if accumulate == 1 else 12)


@pytest.mark.timeout(900)
def test_every_strategy(tmp_path: Path, subtests: pytest.Subtests):
    for strategy, door in pairs(RESUMED, DOORS):
        with subtests.test(strategy, door=door):
            folder = tmp_path / f"{strategy} {door}"
            assert_resumes(folder, door, RESUMED[strategy], accumulate_grad_batches=3, max_epochs=2)


class Noisy(Dataset[Any]):
    """Changes a sample each time it is read."""

    def __init__(self) -> None:
        self.samples = dataset(BATCHES)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        inputs, targets = self.samples[index]
        return inputs + torch.rand(()), targets


class Buffered(IterableDataset[Any]):
    """Has no length, and shuffles with its own generator, which continues from epoch to epoch."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __iter__(self) -> Iterator[Any]:
        samples = dataset(BATCHES)
        for index in torch.randperm(len(samples), generator=self.generator).tolist():
            yield samples[index]


class Drawing(Noisy):
    """Draws from a generator of its own."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def __getitem__(self, index: int) -> Any:
        inputs, targets = self.samples[index]
        if isinstance(self.generator, torch.Generator):
            return inputs + torch.rand((), generator=self.generator), targets
        return inputs + float(self.generator.random()), targets


class CountingReads(Noisy):
    """Has a state that each sample read changes."""

    count = 0

    def __getitem__(self, index: int) -> Any:
        self.count += 1
        inputs, targets = self.samples[index]
        return inputs + self.count / 100, targets

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class Permuted:
    """A sampler of batches that draws from NumPy's or Python's generators."""

    def __init__(self) -> None:
        self.numpy, self.python = np.random.Generator(np.random.Philox(0)), random.Random(0)  # noqa: S311

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[list[int]]:
        order = self.numpy.permutation(2 * BATCHES).tolist()
        self.python.shuffle(order)
        for start in range(0, len(order), 2):
            yield order[start : start + 2]


class Batches:
    """An iterable of batches."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(dataset(BATCHES), batch_size=2))


def own_generator(**arguments: Any) -> DataLoader[Any]:
    return shuffled(generator=torch.Generator().manual_seed(3), **arguments)


def weighted() -> DataLoader[Any]:
    samples = dataset(BATCHES)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    sampler = WeightedRandomSampler(range(1, 15), 14, generator=generators[0])
    return DataLoader(samples, batch_size=2, sampler=sampler, generator=generators[1])


def by_epoch(**arguments: Any) -> DataLoader[Any]:
    samples = dataset(BATCHES)
    sampler: Any = DistributedSampler(samples, num_replicas=1, rank=0, seed=2)
    return DataLoader(samples, batch_size=2, sampler=sampler, **arguments)


LOADERS: dict[str, Callable[[], Any]] = {
    "a generator of its own": own_generator,
    "a sampler with a generator": weighted,
    "a sampler that follows the epoch": by_epoch,
    "samples that draw": lambda: DataLoader(Noisy(), batch_size=2, shuffle=True),
    "samples that draw from a generator": lambda: DataLoader(Drawing(torch.Generator().manual_seed(4)), batch_size=2),
    "a part of samples that draw": lambda: DataLoader(
        Subset(Drawing(np.random.default_rng(4)), range(14)), batch_size=2
    ),
    "samples that count": lambda: DataLoader(CountingReads(), batch_size=2, shuffle=True),
    "generators of NumPy and Python": lambda: DataLoader(dataset(BATCHES), batch_sampler=Permuted()),
    "no length": lambda: DataLoader(Buffered(), batch_size=2),
    "no DataLoader": Batches,
    "a state of its own": Resumable,
}


@pytest.mark.timeout(900)
def test_every_loader(tmp_path: Path, subtests: pytest.Subtests):
    arguments = {"accumulate_grad_batches": 2, "max_epochs": 2}
    for name, loader in LOADERS.items():
        with subtests.test(name):
            assert_resumes(tmp_path / name, "module", MASK_AND_CLIP, loader, **arguments)


def test_two_loaders(tmp_path: Path):
    def data() -> CombinedLoader:
        return CombinedLoader([shuffled(), DataLoader(dataset(3), batch_size=2, shuffle=True)], "max_size_cycle")

    assert_resumes(tmp_path, "module", MASK_AND_CLIP, data, kind=Paired)


WORKERS: dict[str, Callable[[], Any]] = {
    "drawing": lambda: DataLoader(Noisy(), batch_size=2, shuffle=True, num_workers=2),
    "following the epoch": lambda: by_epoch(num_workers=2),
    "outliving the epoch": lambda: own_generator(num_workers=2, persistent_workers=True),
}


@pytest.mark.parametrize("loader", WORKERS)
def test_workers(loader: str, tmp_path: Path):
    assert_resumes(tmp_path, "callback", Identity(), WORKERS[loader], max_epochs=2)


WAYS: list[dict[str, Any]] = [
    {"val_check_interval": 2, "accumulate_grad_batches": 3},
    {"limit_val_batches": 0},
    {"check_val_every_n_epoch": None, "val_check_interval": 5},
    {"limit_train_batches": 5},
    {"reload_dataloaders_every_n_epochs": 1},
    {"log_every_n_steps": 3},
]
MORE_WAYS: list[dict[str, Any]] = [
    {"val_check_interval": 0.5},
    {"check_val_every_n_epoch": 2},
    {"reload_dataloaders_every_n_epochs": 2, "max_epochs": 4},
    {"num_sanity_val_steps": 2},
    {"max_epochs": -1, "max_steps": 18},
    {"max_epochs": -1, "max_steps": 9, "accumulate_grad_batches": 3, "val_check_interval": 4},
]


@pytest.mark.filterwarnings("ignore:Parameter `monitor` of `ReduceLROnPlateau`")  # without a validation
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric val/loss which is not available")
@pytest.mark.timeout(900)
def test_every_way_to_validate_and_log(tmp_path: Path, subtests: pytest.Subtests):
    for number, arguments in enumerate([*WAYS, *MORE_WAYS] if THOROUGH else WAYS):
        with subtests.test(str(arguments)):
            assert_resumes(tmp_path / str(number), "module", MASK_AND_CLIP, **arguments)


def test_a_run_that_was_to_stop_earlier_goes_on(tmp_path: Path, subtests: pytest.Subtests):
    _, whole = fit("module", MASK_AND_CLIP, max_epochs=2)
    for stop in range(1, 15) if THOROUGH else (4, BATCHES, 13):
        with subtests.test(stop=stop):
            folder = tmp_path / str(stop)
            _, first = fit("module", MASK_AND_CLIP, callbacks=every_step(folder), max_epochs=2, max_steps=stop)
            assert first.seen == whole.seen[:stop]
            path = folder / f"step={stop}.ckpt"
            _, resumed = fit("module", MASK_AND_CLIP, path=path, max_epochs=2)
            assert torch.load(path, weights_only=True)["until then"]["seen"] == stop
            assert_went_on(resumed, whole, path)


class Counting(Callback):
    """Counts and draws where an epoch starts, in front of whatever else does something there."""

    epochs = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.epochs += 1
        torch.rand(())

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]


def test_callbacks_that_count_and_draw(tmp_path: Path):
    _, whole = fit("module", MASK_AND_CLIP, callbacks=[Counting(), *every_step(tmp_path)])
    for name in ("epoch=0", "step=10"):
        path, counting = tmp_path / f"{name}.ckpt", Counting()
        _, resumed = fit("module", MASK_AND_CLIP, callbacks=[counting, ExactResume()], path=path)
        assert_went_on(resumed, whole, path)
        assert counting.epochs == 3


def test_a_checkpoint_that_is_saved_after_a_fit_that_ended_within_an_epoch(tmp_path: Path) -> None:
    _, whole = fit("module", Identity())
    run, _ = fit("module", Identity(), max_steps=3, max_epochs=-1)
    run.save_checkpoint(tmp_path / "after.ckpt")
    _, resumed = fit("module", Identity(), path=tmp_path / "after.ckpt")
    assert_same_bits(resumed.states, whole.states)
