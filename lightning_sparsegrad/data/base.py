"""The base of the data modules, with tokenizer, cache, padding and loaders."""

import os
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lightning_sparsegrad.data._caches import caching
from lightning_sparsegrad.data._checks import (
    listed,
    most_workers,
    require_at_least,
    require_at_most,
    require_file_names,
    require_no_mean,
    require_seed,
)
from lightning_sparsegrad.data._extremes import extreme_rows
from lightning_sparsegrad.data._labelled import LabelledDataModule
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data._predictions import write_table
from lightning_sparsegrad.data._task_kinds import Task
from lightning_sparsegrad.data._tokenizer_padding import settle_tokenizer
from lightning_sparsegrad.data.encodings import Encoding, Tokens, kind_of
from lightning_sparsegrad.data.encodings._base import Batch
from lightning_sparsegrad.data.samplers import LengthGroupedSampler, UnrepeatedSampler, lengths_of
from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.hub._tokenizers import load_tokenizer
from lightning_sparsegrad.loops._twins import require_our_trainer
from lightning_sparsegrad.metrics import MetricName

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test", "predict")
_LARGEST = 2**31 - 1  # rows or tokens; more is a typing error, and torch counts in 64 bits
_SPLITS_OF_STAGE = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
}


class TokenizedDataModule(LabelledDataModule, ABC):
    """Abstract data module whose rows are tokenized once, cached by `datasets`, and padded batch by batch.

    A subclass defines the rows (`load_splits`) and their `encoding`. `prepare_data` tokenizes in one process; `setup`
    reads the result from the cache in all of them. The cache key consists of the rows, the tokenizer and its settings,
    so that a second run does not tokenize again.

    The splits to evaluate and predict may have parts, such as languages, named `validation.de`, `validation.fr` and so
    on. Their loaders are then a dict by part, and the names of metrics include the part.

    The order of the train split depends on the seed and the epoch, but not on the number of epochs that this process
    has run, so that a resumed run reads epoch 3 like the uninterrupted one. No loader uses the global generator.
    Several processes share the rows to evaluate and predict, each row once (`UnrepeatedSampler`).

    Args:
        encoding: The encoding of its rows.
        tokenizer: The tokenizer's hub id, local folder or `package:` source; by default the `model_name_or_path` of the
            LightningModule that the Trainer runs.
        max_length: The number of tokens that a row is truncated to, including special ones.
        batch_size: The rows per batch and device in training.
        eval_batch_size: The same for validation, test and prediction; by default `batch_size`.
        num_workers: The number of worker processes that load batches; at most 64 per core of the machine.
        pad_to_multiple_of: Round the length of a batch up to a multiple of this, in tokens, at most `max_length`.
        group_by_length: Make batches of rows of similar length, which need less padding: in random order for training
            (`LengthGroupedSampler`), longest first for validation and test.
        max_samples: Keep at most this many rows of each split, for quick trials; every run draws the same rows. All
            rows to predict are kept, in order; limit them with the Trainer's `limit_predict_batches`.
        seed: The seed of the order of the train split, from 0 to 2^32 - 1; by default the global seed
            (`seed_everything`), else 0.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    metrics: Sequence[MetricName] | None = None
    """The usual metrics of predicted classes or numbers, see `SequenceClassification`."""

    train_language: str | None = None
    """The part in the language of the train split, if the parts are languages."""

    def __init__(
        self,
        *,
        encoding: Encoding,
        tokenizer: str | None = None,
        max_length: int = 128,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pad_to_multiple_of: int | None = None,
        group_by_length: bool = False,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(encoding)
        self.tokenizer_name = tokenizer
        optional = {
            "eval_batch_size": eval_batch_size,
            "pad_to_multiple_of": pad_to_multiple_of,
            "max_samples": max_samples,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        require_at_least(1, max_length=max_length, batch_size=batch_size, **given)
        require_at_least(0, num_workers=num_workers)
        require_at_most(most_workers(), num_workers=num_workers)
        require_at_most(_LARGEST, max_length=max_length, batch_size=batch_size, **given)
        require_at_most(max_length, pad_to_multiple_of=pad_to_multiple_of or 1)
        require_seed(seed=0 if seed is None else seed)
        self.max_length = max_length
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pad_to_multiple_of = pad_to_multiple_of
        self.group_by_length = group_by_length
        self.max_samples = max_samples
        self.seed = seed
        self._encoded: dict[str, tuple[LabelSpace | None, Dataset]] = {}

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "trainer":  # a Trainer of the other package sets it before it mistakes this module for a loader
            require_our_trainer(value, type(self).__name__)
        super().__setattr__(name, value)

    def parts(self, kind: str) -> dict[str, str]:
        """Return the names of the splits of a kind by part: `{"de": "validation.de"}`, `{"": "test"}` without parts.

        Raises:
            ConfigurationError: If a split exists both with and without parts, or the name of a part is reserved or
                cannot be a file name.
        """
        by_part = {name.partition(".")[2]: name for name in self.splits_of_source if kind_of(name) == kind}
        if "" in by_part and len(by_part) > 1:
            raise ConfigurationError(
                f"Split `{kind}` should be whole, or have parts. Found {listed(by_part.values())}."
            )
        require_file_names(by_part)
        if kind != "predict":
            require_no_mean(by_part)
        return by_part

    def dataset(self, split: str) -> "Dataset":
        """Return the encoded rows of a split, from the cache if it has them."""
        is_predicted = kind_of(split) == "predict"
        labels = None if is_predicted else self.label_space_of(split)
        if split not in self._encoded or self._encoded[split][0] != labels:
            rows = self.rows(split)
            if self.max_samples is not None and self.max_samples < len(rows) and not is_predicted:
                rows = self.encoding.sample(rows, self.max_samples)
            with caching(rows):
                self._encoded[split] = labels, self.encoding.encode(rows, split, self.tokens, labels)
        return self._encoded[split][1]

    def decode(self, output: Mapping[str, Any], batch: Batch) -> list[Any]:
        """Return the readable prediction of each row in a batch: a name, a number, or a list of names."""
        return self.encoding.decode(output, batch, LabelSpace("", tuple(self.label_names)))

    def write_predictions(self, folder: Path, part: str, predictions: list[Any]) -> None:
        """Write the predictions of a part, as returned by `decode`, into a file; `""` stands for data without parts.

        The file is `<part>.tsv`, tab-separated, with the columns `index` and `prediction`. The labels of the words in a
        sentence are separated by spaces.
        """
        write_table(folder / f"{part or 'predictions'}.tsv", predictions)

    @property
    def tokens(self) -> Tokens:
        """The tokenizer with its settings."""
        return Tokens(self.tokenizer, self.max_length)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer; without a padding token, it uses that of the model, or its end token.

        Raises:
            ConfigurationError: If no tokenizer is named, or it cannot be loaded or cannot tokenize as the arguments
                require.
        """
        name = self.tokenizer_name or self._model_name()
        tokenizer = load_tokenizer(name, self.encoding.tokenizer_options)
        if self.max_length > tokenizer.model_max_length:
            raise ConfigurationError(
                f"Parameter `max_length` should be at most {tokenizer.model_max_length} for tokenizer `{name}`. "
                f"Found `max_length = {self.max_length}`."
            )
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if self.max_length <= special:
            raise ConfigurationError(
                f"Parameter `max_length` should be at least {special + 1} for tokenizer `{name}`, which adds {special} "
                f"special tokens to each row. Found `max_length = {self.max_length}`."
            )
        module = self._module
        settle_tokenizer(tokenizer, name, getattr(getattr(module, "model", None), "config", None))
        return tokenizer

    def _model_name(self) -> str:
        module = self._module
        name = getattr(module, "model_name_or_path", None)
        if not isinstance(name, str):
            raise ConfigurationError(
                "Parameter `tokenizer` should be given unless the trainer runs a module with a `model_name_or_path`. "
                f"Found `tokenizer = None` and {'no trainer' if module is None else f'`{type(module).__name__}`'}."
            )
        return name

    @override
    def prepare_data(self) -> None:
        """Download and tokenize the splits that the Trainer is about to use, or all splits, in one process.

        Raises:
            ConfigurationError: If the Trainer runs a task of this library that needs other batches.
        """
        self._require_module()
        running = self.trainer.state.fn if self.trainer is not None else None
        if running is not None and running.value != "predict" and not self.awaits_names:
            self._require_num_labels()
        for stage in _SPLITS_OF_STAGE if running is None else (running.value,):
            self.setup(stage)

    def _require_module(self) -> None:
        module = self._module
        if isinstance(module, Task) and module.task_kind != self.encoding.task_kind:
            raise ConfigurationError(
                f"Data of `{type(self).__name__}` should be given to a `{self.encoding.task_kind.value}`. "
                f"Found `{type(module).__name__}`."
            )

    def _require_num_labels(self) -> None:
        """Check that a model of this library learns classes if the data have classes, and numbers otherwise."""
        module = self._module
        outputs = getattr(module, "num_labels", None)
        if not isinstance(module, Task) or outputs is None:
            return
        if outputs < self.num_labels or (outputs == 1) != (self.num_labels == 1):
            problem = "regression" if outputs == 1 else "classification"
            hint = f" Or set `problem={problem!r}` of the data." if 1 in (outputs, self.num_labels) else ""
            raise ConfigurationError(
                f"Parameter `num_labels` of `{type(module).__name__}` should be that of the data: {self.num_labels}. "
                f"Found `num_labels = {outputs}`.{hint}"
            )

    @override
    def setup(self, stage: str) -> None:
        """Encode the splits of a stage, or read them from the cache that `prepare_data` has filled.

        Raises:
            ConfigurationError: If the stage is not `fit`, `validate`, `test` or `predict`.
        """
        require_one_of("stage", stage, list(_SPLITS_OF_STAGE))
        for split in self._splits_of(stage):  # refuse unreadable splits before encoding any
            self.rows(split)
        for split in self._splits_to_encode(stage):
            self.dataset(split)

    def _splits_of(self, stage: str) -> list[str]:
        return [split for kind in _SPLITS_OF_STAGE[stage] for split in self.parts(kind).values()]

    def _splits_to_encode(self, stage: str) -> list[str]:
        """Return the splits of a stage that can be encoded; those with labels need the classes to be known."""
        return self._splits_of(stage) if stage == "predict" or not self.awaits_names else []

    def extreme_batches(self, stage: str) -> Iterator[Batch]:
        """Yield the most demanding batches of a stage: those with the longest rows and with the largest token ids."""
        for split in self._splits_to_encode(stage):
            rows = self.dataset(split)
            for row in extreme_rows(rows):
                yield self.encoding.collate(self.tokens, [rows[row]], self.pad_to_multiple_of)

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        """Return this process's share of the shuffled batches of the train split."""
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        # the sampler adds the epoch to its seed: spread the seeds, so that adjacent ones never share an order
        order: dict[str, Any] = {"seed": seed * 1_000_003, **self._replicas}
        rows = self.dataset("train")
        if self.group_by_length:
            sampler: DistributedSampler[Any] = LengthGroupedSampler(rows, lengths_of(rows), self.batch_size, **order)
        else:
            sampler = DistributedSampler(rows, shuffle=True, **order)
        return self._loader(rows, self.batch_size, sampler)

    @override
    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return the batches of the validation split, by part; none in a fit on data without it."""
        if self.trainer is not None and self.trainer.state.fn == "fit" and not self.parts("validation"):
            return []
        return self.eval_loaders("validation")

    @override
    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Return the batches of the test split, by part."""
        return self.eval_loaders("test")

    @override
    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Return the batches of the split to predict, without labels, by part."""
        return self.eval_loaders("predict")

    def eval_loaders(self, kind: str) -> EVAL_DATALOADERS:
        """Return the batches of a split: a loader, or a dict of them by part.

        Raises:
            ConfigurationError: If there is no such split, or it is empty.
        """
        parts = self.parts(kind) or {"": kind}
        loaders = {part: self._eval_loader(split) for part, split in parts.items()}
        return loaders.get("", loaders)

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        rows = self.dataset(split)
        if self.group_by_length and kind_of(split) != "predict":
            lengths = lengths_of(rows)
            rows = rows.select(sorted(range(len(rows)), key=lengths.__getitem__, reverse=True))
        size, replicas = self.eval_batch_size or self.batch_size, self._replicas
        if replicas["num_replicas"] == 1 or self._overfits:
            return self._loader(rows, size)
        return self._loader(rows, size, UnrepeatedSampler(rows, size, **replicas))

    @property
    def _replicas(self) -> dict[str, int]:
        """The number of processes that share the data, and the rank of this one."""
        return (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}

    @property
    def _overfits(self) -> bool:
        """Whether the Trainer overfits a few batches with its own sampler."""
        trainer = self.trainer
        return trainer is not None and trainer.state.fn == "fit" and bool(trainer.overfit_batches)  # type: ignore[attr-defined]  # set by its connector

    def _loader(
        self, rows: "Dataset", batch_size: int, sampler: DistributedSampler[Any] | None = None
    ) -> DataLoader[Batch]:
        return DataLoader(
            rows,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=partial(_collate, self.encoding, self.tokens, self.pad_to_multiple_of),
            generator=torch.Generator().manual_seed(
                0
            ),  # otherwise the workers' seeds would be drawn from the global generator
        )


def _collate(encoding: Encoding, tokens: Tokens, pad_to_multiple_of: int | None, rows: list[dict[str, Any]]) -> Batch:
    return encoding.collate(tokens, rows, pad_to_multiple_of)
