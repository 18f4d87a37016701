"""The train data of a fit, sample by sample."""

from functools import partial
from itertools import chain, islice
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, IterableDataset

from lightning_sparsegrad.errors import ConfigurationError

_KEPT = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator")


def give_single_samples(source: LightningDataModule | LightningModule, most: int) -> None:
    """Have a source of train data give single samples, see `single_samples`."""
    source.train_dataloader = partial(_given, source.train_dataloader, most)  # type: ignore[method-assign]


def _given(train_dataloader: Any, most: int) -> DataLoader[Any]:
    return single_samples(train_dataloader(), most)


def single_samples(loader: Any, most: int) -> DataLoader[Any]:
    """Return a loader of the first samples of another one, in its order, in batches of one.

    Args:
        loader: A loader that makes batches of the samples of a dataset.
        most: The largest number of samples, fewer if there are not as many.

    Raises:
        ConfigurationError: If it is another kind of loader, its dataset makes the batches, or there is no sample.
    """
    if not isinstance(loader, DataLoader):
        raise ConfigurationError(
            f"Train data should come from one `DataLoader` to be read sample by sample. "
            f"Found a `{type(loader).__name__}`."
        )
    dataset: Any = loader.dataset
    if loader.batch_sampler is None:
        raise ConfigurationError(
            f"Train data should be batches of samples that the `DataLoader` makes itself, to be read sample by sample. "
            f"Found `batch_size = None`: a `{type(dataset).__name__}` makes the batches."
        )
    kept = {name: getattr(loader, name) for name in _KEPT}
    if not isinstance(dataset, IterableDataset):  # whose samples have no index
        kept["sampler"] = list(islice(chain.from_iterable(loader.batch_sampler), most))
        require_some(len(kept["sampler"]))
    return DataLoader(dataset, batch_size=1, **kept)


def require_some(samples: int) -> None:
    """Raise a `ConfigurationError` unless there is a sample."""
    if not samples:
        raise ConfigurationError("Train data should have a sample to calibrate on. Found none.")
