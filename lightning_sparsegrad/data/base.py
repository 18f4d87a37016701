"""What every data module of the library shares: tokenizer, cache, padding and loaders."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from datasets import Dataset
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase

from lightning_sparsegrad.data.checks import listed, require_at_least
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.sources import resolve_source

SPLITS = ("train", "validation", "test", "predict")
_SPLITS_OF_STAGE = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
}
Batch = dict[str, Tensor]


class TokenizedDataModule(LightningDataModule, ABC):
    """Abstract data module: rows are tokenised once, cached by `datasets`, and padded batch by batch.

    A subclass says where rows come from (`load_splits`) and how a row becomes token ids and labels (`encode`).
    `prepare_data` tokenises on one process, `setup` finds the result in the cache on all of them. The cache's key is
    made of the rows, the tokenizer and its settings, so a second run does not tokenise again.

    The order of the train split is a function of the seed and the epoch, and not of how many epochs this process has
    seen, so that a resumed run reads epoch 3 as the uninterrupted one did. No loader touches the global generator.

    Args:
        tokenizer: The tokenizer's hub id, local folder or `package:` source; by default the `model_name_or_path` of the
            LightningModule that the trainer runs.
        max_length: The tokens a row is truncated to, special ones included; a pair loses tokens of its longer text.
        batch_size: The rows per batch and device when training.
        eval_batch_size: The same for validation, test and prediction; `batch_size` by default.
        num_workers: The processes that load batches, beside the main one.
        pad_to_multiple_of: Round the length of a batch up to a multiple of this, in tokens.
        max_samples: Keep at most this many rows of each split, for quick trials: a draw that is the same in every run.
        seed: The seed of the order of the train split; by default the global seed (`seed_everything`), else 0.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        tokenizer: str | None = None,
        max_length: int = 128,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pad_to_multiple_of: int | None = None,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer_name = tokenizer
        optional = {
            "eval_batch_size": eval_batch_size,
            "pad_to_multiple_of": pad_to_multiple_of,
            "max_samples": max_samples,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        require_at_least(1, max_length=max_length, batch_size=batch_size, **given)
        require_at_least(0, num_workers=num_workers, seed=0 if seed is None else seed)
        self.max_length = max_length
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pad_to_multiple_of = pad_to_multiple_of
        self.max_samples = max_samples
        self.seed = seed
        self._encoded: dict[str, Dataset] = {}

    @abstractmethod
    def load_splits(self) -> dict[str, Dataset]:
        """Return the rows of each split; those of `SPLITS` have a loader of that name."""

    @abstractmethod
    def encode(self, split: str, rows: Dataset) -> Dataset:
        """Return the token ids of the rows, and their labels unless the split is to be predicted."""

    def collator(self) -> Callable[[list[dict[str, Any]]], Any]:
        """Return what makes a batch of a list of encoded rows: here, padding to the longest of them."""
        return DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=self.pad_to_multiple_of)

    @cached_property
    def splits_of_source(self) -> dict[str, Dataset]:
        """The rows as they were loaded, by split; loaded when first asked for."""
        return self.load_splits()

    def rows(self, split: str) -> Dataset:
        """Return the rows of a split as they were loaded.

        Raises:
            ConfigurationError: If there is no such split, or it is empty.
        """
        found = self.splits_of_source
        if split not in found:
            raise ConfigurationError(f"The data should have rows for `{split}`. Found rows for {listed(found)}.")
        if not len(found[split]):
            raise ConfigurationError(f"Split `{split}` should not be empty. Found 0 rows.")
        return found[split]

    def dataset(self, split: str) -> Dataset:
        """Return the encoded rows of a split, from the cache where they are in it."""
        if split not in self._encoded:
            rows = self.rows(split)
            if self.max_samples is not None and self.max_samples < len(rows):
                rows = rows.shuffle(seed=0).select(range(self.max_samples))
            self._encoded[split] = self.encode(split, rows)
        return self._encoded[split]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; one without a padding token pads with its end token.

        Raises:
            ConfigurationError: If no tokenizer is named, it cannot be loaded, or cannot do what is asked of it.
        """
        name = self.tokenizer_name or self._model_name()
        source = resolve_source(name)
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            reason = repr(error) if not str(error) else str(error).splitlines()[0]
            raise ConfigurationError(
                f"Tokenizer `{name}` should be a hub id or a local folder. Found: {reason}"
            ) from error
        if self.max_length > tokenizer.model_max_length:
            raise ConfigurationError(
                f"Parameter `max_length` should be at most {tokenizer.model_max_length} for tokenizer `{name}`. "
                f"Found `max_length = {self.max_length}`."
            )
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ConfigurationError(f"Tokenizer `{name}` should have a padding or an end token. Found neither.")
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _model_name(self) -> str:
        module = self.trainer.lightning_module if self.trainer is not None else None
        name = getattr(module, "model_name_or_path", None)
        if not isinstance(name, str):
            raise ConfigurationError(
                "Parameter `tokenizer` should be given unless the trainer runs a module with a `model_name_or_path`. "
                f"Found `tokenizer = None` and {'no trainer' if module is None else f'`{type(module).__name__}`'}."
            )
        return name

    def prepare_data(self) -> None:
        """Download and tokenise what the trainer is about to use, or everything, on one process."""
        running = self.trainer.state.fn if self.trainer is not None else None
        for stage in _SPLITS_OF_STAGE if running is None else (running.value,):
            self.setup(stage)

    def setup(self, stage: str) -> None:
        """Encode the splits of a stage, from the cache where `prepare_data` has filled it."""
        for split in _SPLITS_OF_STAGE[stage]:
            if split in self.splits_of_source:
                self.dataset(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the shuffled batches of the train split, this process's share of them."""
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        replicas = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        # the sampler adds the epoch to its seed: far apart, so that neighbouring seeds do not share their orders
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.dataset("train"), shuffle=True, seed=seed * 1_000_003, **replicas
        )
        return self._loader("train", self.batch_size, sampler)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return the batches of the validation split; none when fitting on data without one."""
        if self.trainer is not None and self.trainer.state.fn == "fit" and "validation" not in self.splits_of_source:
            return []
        return self.eval_loader("validation")

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Return the batches of the test split."""
        return self.eval_loader("test")

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Return the batches of the split to predict, without labels."""
        return self.eval_loader("predict")

    def eval_loader(self, split: str) -> DataLoader[Batch]:
        """Return the batches of a split in its own order."""
        return self._loader(split, self.eval_batch_size or self.batch_size)

    def _loader(self, split: str, batch_size: int, sampler: DistributedSampler[Any] | None = None) -> DataLoader[Batch]:
        return DataLoader(
            self.dataset(split),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=partial(_collate, self.collator()),
            generator=torch.Generator().manual_seed(0),  # workers' seeds would be drawn from the global generator
        )


def _collate(collator: Callable[[list[dict[str, Any]]], Any], rows: list[dict[str, Any]]) -> Batch:
    return dict(collator(rows))
