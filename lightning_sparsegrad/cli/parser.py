"""The argument parser, in which naming a class replaces the one before it and every mistake gets one line."""

import sys
from typing import NoReturn

from typing_extensions import override

from lightning_sparsegrad.cli._diagnosis import diagnose
from lightning_sparsegrad.cli._faults import debugging
from lightning_sparsegrad.cli._jsonargparse import ReplacingParser


class SparseGradArgumentParser(ReplacingParser):
    """LightningCLI's parser, in which **a file or flag that names another class replaces the one before it**.

    jsonargparse merges instead. A file with `AdamW(lr=0.001, weight_decay=0.01)`, overlaid by a flag that names `SGD`,
    becomes `SGD(lr=0.001, weight_decay=0.01)`, even if the decay was the model's default for AdamW. Lists of equal
    length are merged by position. In this parser:

    - A new class inherits nothing from the class that it replaces, neither values nor defaults. This holds for an
      optimizer, a scheduler, the data, the model, a logger, an item of `trainer.callbacks`.
    - A model's strategy is the exception: it stays unless the new model comes with its own.
    - Values without a class, or with the same class, refine the values before them.
    - A gradient transform, or a schedule inside one, is reset whenever its class is named, even if it is the same.
      `gradient_transform: {init_args: {rate: 0.4}}` changes the rate alone, and a named member of a `Chain` can be
      changed by itself.

    A mistake gets one line with its position and near matches. `SPARSEGRAD_DEBUG=1` in the environment shows
    jsonargparse's full text. Flags cannot be abbreviated: `--trainer.max_epoch` does not mean `--trainer.max_epochs`.

    Note:
        A parser with positional arguments or mutually exclusive groups of its own merges flags, as jsonargparse does.
        Files replace there, too.

    Args:
        *args: The arguments of `LightningArgumentParser`.
        **kwargs: The arguments of `LightningArgumentParser`.

    Example:
        >>> from lightning.pytorch.cli import LightningCLI
        >>> class MyCLI(LightningCLI):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(parser_class=SparseGradArgumentParser, **kwargs)
    """

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the mistake, its position and near matches as one line to stderr, and exit with status 2."""
        if debugging() or not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"error: {diagnose(message, self)}\n")
        self.exit(2)
