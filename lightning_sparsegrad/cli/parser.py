"""The argument parser: a class named anew replaces the one before it, and a mistake is answered in one line."""

import sys
from typing import NoReturn

from typing_extensions import override

from lightning_sparsegrad.cli._diagnosis import diagnose
from lightning_sparsegrad.cli._faults import debugging
from lightning_sparsegrad.cli._jsonargparse import ReplacingParser


class SparseGradArgumentParser(ReplacingParser):
    """LightningCLI's parser, in which **a file or flag that names another class replaces the one before it**.

    jsonargparse merges: an `AdamW(lr=0.001, weight_decay=0.01)` of one file, overlaid by a flag that names `SGD`,
    becomes `SGD(lr=0.001, weight_decay=0.01)`, even if the decay was the model's default for AdamW; and lists of equal
    length are merged by position. Here a class that takes the place of another has nothing of it, neither what was read
    before nor a default: an optimizer, a scheduler, the data, the model, a logger, an item of `trainer.callbacks`. A
    model's strategy alone stays, unless the new one comes with its own. What names no class, or the same one again,
    refines what was read before. Gradient transforms, and schedules inside them, start anew whenever their class is
    named, be it the same: `gradient_transform: {init_args: {rate: 0.4}}` changes the rate alone, and a named part of a
    `Chain` can be given by itself.

    A mistake is answered in one line that names it, its place and near matches. `SPARSEGRAD_DEBUG=1` in the environment
    gives jsonargparse's whole text. A flag is written out: `--trainer.max_epoch` does not stand for
    `--trainer.max_epochs`.

    Note:
        In a parser with positional arguments or mutually exclusive groups of its own, flags are merged as jsonargparse
        does; files replace there, too.

    Args:
        *args: What `LightningArgumentParser` takes.
        **kwargs: What `LightningArgumentParser` takes.

    Example:
        >>> from lightning.pytorch.cli import LightningCLI
        >>> class MyCLI(LightningCLI):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(parser_class=SparseGradArgumentParser, **kwargs)
    """

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write one line that names the mistake, where it is and near matches to stderr, and exit with status 2."""
        if debugging() or not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"error: {diagnose(message, self)}\n")
        self.exit(2)
