"""The base of data modules that know the classes of their labels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule

from lightning_sparsegrad.data._checks import listed
from lightning_sparsegrad.data._classes import are_ids
from lightning_sparsegrad.data._labels import LabelSpace
from lightning_sparsegrad.data.encodings import Encoding, kind_of
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.untrusted._strangers import LoadedFromStrangers

if TYPE_CHECKING:
    from datasets import Dataset


class LabelledDataModule(LoadedFromStrangers, LightningDataModule, ABC):
    """Abstract data module that knows its classes, from its rows or from a checkpoint.

    Args:
        encoding: The encoding of its rows.
    """

    labels: Sequence[str] | None = None
    """The names of the classes, if they are known without the data; empty for regression."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoding = encoding
        self.trained_names: Sequence[str] | None = None
        """The names of the classes stored in a checkpoint; empty for regression, `None` without a checkpoint."""

    @abstractmethod
    def load_splits(self) -> "Mapping[str, Dataset]":
        """Return the rows of each split, with names from `SPLITS` or `<one of them>.<part>`."""

    @cached_property
    def splits_of_source(self) -> "Mapping[str, Dataset]":
        """The rows as loaded, by split; they are loaded on first access."""
        return self.load_splits()

    def rows(self, split: str) -> "Dataset":
        """Return the rows of a split as loaded.

        Raises:
            ConfigurationError: If there is no such split, or it is empty.
        """
        splits = self.splits_of_source
        if split not in splits:
            raise ConfigurationError(f"The data should have rows for `{split}`. Found rows for {listed(splits)}.")
        if not len(splits[split]):
            raise ConfigurationError(f"Split `{split}` should not be empty. Found 0 rows.")
        return splits[split]

    def rows_of_classes(self, split: str) -> "Dataset":
        """Return the rows that determine the classes: those of the split, and those set aside from it."""
        return self.rows(split)

    def is_missing(self, split: str) -> bool:
        """Return whether there is no such split."""
        return split not in self.splits_of_source

    @property
    def num_labels(self) -> int:
        """The number of outputs that a model needs: the number of classes, or 1 for regression.

        It is available before `setup`, to build the model with. If nothing else determines the classes, accessing it
        loads the data.
        """
        return len(self.label_names) or 1

    @property
    def label_names(self) -> list[str]:
        """The names of the classes in the order of their ids; empty for regression.

        They come from the first of these that has them: the data module's class, the argument `label_names`, the
        checkpoint (except in a fit), the train split.

        Raises:
            ConfigurationError: If values cannot be labels, or the model was trained on another `problem`.
        """
        names, of_model = self._given_names, self._names_of_model
        problem = getattr(self.encoding, "problem", None)
        if of_model is not None and problem is not None and (problem == "regression") == bool(of_model):
            trained = "classification" if of_model else "regression"
            raise ConfigurationError(
                f"Parameter `problem` should be the one that the model was trained on: {trained}. "
                f"Found `problem = {problem!r}`."
            )
        if self.labels is None and of_model is None and (names is None or self._labelled_splits):
            names = self.label_space.names  # checks the given names
        return list((of_model if names is None else names) or ())

    @cached_property
    def label_space(self) -> LabelSpace:
        """The label space, read from the train split, or without one from the first split that has labels.

        Raises:
            ConfigurationError: If the label column is missing, or its values cannot be labels.
        """
        splits = self._labelled_splits or list(self.splits_of_source)
        if self.labels is None and getattr(self._module, "num_labels", None) == 1:
            self.encoding.learn_numbers()
        is_needed = self._given_names is None and not self._is_evaluating  # to determine the classes
        split = "train" if "train" in splits or (is_needed and "train" in self.splits_of_source) else splits[0]
        self.rows(split)  # raises the error about it
        return self.encoding.label_space(self.rows_of_classes(split), split)

    def label_space_of(self, split: str) -> LabelSpace:
        """Return the label space of a split; for an evaluation, the classes of the model if they are known."""
        names = None if self._given_names is not None else self._names_of_model
        is_read = "label_space" in vars(self) and list(self.label_space.names) == list(names or ())
        if names is None or is_read:
            return self.label_space
        return self.encoding.label_space(self.rows(split), split, names)

    @property
    def awaits_names(self) -> bool:
        """Whether the classes are not known before a checkpoint is restored."""
        return self._is_evaluating and self.is_missing("train") and self._given_names is None is self._names_of_model

    @property
    def _labelled_splits(self) -> list[str]:
        return [name for name in self.splits_of_source if kind_of(name) != "predict" and not self.is_missing(name)]

    @property
    def _given_names(self) -> Sequence[str] | None:
        return self.encoding.label_names if self.labels is None else self.labels

    @property
    def _names_of_model(self) -> Sequence[str] | None:
        names: Sequence[str] | None = self.trained_names
        if names is None and self._is_evaluating:
            names = getattr(self._module, "trained_names", None)
        # ids are not names, which a train split gives
        return None if names and are_ids(names) and not self.is_missing("train") else names

    @property
    def _module(self) -> Any:
        """The module that the Trainer runs, or `None` without a Trainer."""
        return None if self.trainer is None else self.trainer.lightning_module

    @property
    def _is_evaluating(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn not in (None, "fit")
