"""Bad batches in an ordinary fit: their labels are wrong, and their loss is a hundred times as large."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad import ValenceDataModule

if TYPE_CHECKING:
    from datasets import Dataset


class BadBatches(Callback):
    """Spoil one batch in every few, so that its gradient is large and points the wrong way.

    Each of its labels is replaced by the other class, and its loss is multiplied.

    Args:
        every: Number of batches from one bad batch to the next.
        after: Number of batches at the start of training of which none is bad.
        factor: Number by which the loss of a bad batch is multiplied.
    """

    def __init__(self, every: int = 20, *, after: int = 0, factor: float = 100.0) -> None:
        super().__init__()
        self._every, self._after, self._factor = every, after, factor

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._is_bad(trainer):
            batch["labels"] = 1 - batch["labels"]

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._is_bad(trainer):
            loss *= self._factor  # in place: it is this tensor whose gradient is computed

    def _is_bad(self, trainer: Trainer) -> bool:
        return trainer.global_step >= self._after and (trainer.global_step + 1) % self._every == 0


class TestedWords(ValenceDataModule):
    """The words of the quickstart, with the test split in place of the validation split."""

    @override
    def load_splits(self) -> "dict[str, Dataset]":
        """Return the splits by name."""
        splits = super().load_splits()
        return {**splits, "validation": splits["test"]}
