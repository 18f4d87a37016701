"""The interface between the adapter of a loop and the checkpoints of its runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer


class Gate(ABC):
    """The abstract hooks that an adapter calls so that a run can be stopped and resumed.

    The owner of an adapter passes a gate to it. The adapter knows when a gradient waits for its step; the gate knows
    what a checkpoint holds besides the engine's state, and when it may be written.
    """

    keys: ClassVar[tuple[str, ...]]
    """The keys of a checkpoint that the adapter keeps and passes to `resumed`."""

    @abstractmethod
    def load(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """Read a checkpoint that a Trainer restores.

        Raises:
            ConfigurationError: If its file is damaged.
        """

    @abstractmethod
    def opened(self, trainer: Trainer, *, holds_gradient: Callable[[], bool]) -> None:
        """Begin a fit.

        Args:
            trainer: Its Trainer.
            holds_gradient: Returns whether a gradient waits for an optimizer step that only the adapter knows about.
        """

    @abstractmethod
    def resumed(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Take the restored entries under `keys`; not called for a fit that is not resumed."""

    @abstractmethod
    def started(self, trainer: Trainer) -> None:
        """Start training, with the engine's state restored."""

    @abstractmethod
    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the state of the gate into a checkpoint; nothing before a fit has started."""

    @abstractmethod
    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Handle an exception that ends a fit, before any callback requests a checkpoint."""
