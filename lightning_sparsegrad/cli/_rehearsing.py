"""Commands that take the arguments of `fit`, and run a fit that steps nowhere and leaves nothing behind."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers.logger import DummyLogger
from typing_extensions import override

from lightning_sparsegrad.cli.sparsegrad_cli import SparseGradCLI

_RANK_ZERO = "lightning.pytorch.utilities.rank_zero"
_UNSAID = (
    "You defined a `validation_step` but have no `val_dataloader`",
    "`max_epochs` was not set",
    r"When using `Trainer\(accumulate_grad_batches != 1\)` and overriding",
    r"The number of training batches \(.*\) is smaller than the logging interval",
)


class RehearsingCLI(SparseGradCLI):
    """The command line of a command that takes the arguments of `fit`, and runs a fit without logger and callbacks.

    Attributes:
        command: The name of the command.
        description: Its help.
    """

    command: ClassVar[str]
    description: ClassVar[str]

    # ------------------------------------------------------------ arguments
    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        return {"fit": SparseGradCLI.subcommands()["fit"]}

    @override
    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        parser = self.subcommand_parsers["fit"]
        parser.prog, parser.description = f"sparsegrad {self.command}", self.description

    @override
    def before_instantiate_classes(self) -> None:
        self._own: Namespace = self.config["fit"]
        self._logs, self._own.trainer.logger = self._own.trainer.logger is not False, False

    # ------------------------------------------------------------ the Trainer
    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Instantiate a Trainer that writes nothing."""
        logger = {"logger": DummyLogger()} if self._logs else {}  # which a module may call
        return LightningCLI.instantiate_trainer(self, **logger, **kwargs)

    @override
    def _about_end(self, trainer: Trainer | None) -> str:
        return f"stopped before `{self.command}` was done"


@contextmanager
def unsaid() -> Iterator[None]:
    """Leave out what Lightning says of a fit that is none."""
    logger = logging.getLogger(_RANK_ZERO)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _UNSAID:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
