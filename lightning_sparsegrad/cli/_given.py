"""The arguments of a command, read before parsing: they name the checkpoint that gives the parser its defaults."""

import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType

from lightning_sparsegrad.cli._config_files import located, read_config
from lightning_sparsegrad.cli._replacing import entries
from lightning_sparsegrad.resume._checkpoints import HYPER_PARAMETERS

TRAINER = "trainer"
_FETCHED = {"best", "last", "hpc"}  # keywords, which Lightning resolves


class Given:
    """The arguments of a command, from flags, files or a dict, before they are parsed.

    Args:
        arguments: The arguments of the command; by default those of the process.
        subcommands: The names of subcommands.

    Attributes:
        subcommand: The first subcommand named.
        checkpoint: The last `ckpt_path`.
        classes: The classes named for model and data.
        names: Arguments that replace a stored value whole, such as `seed_everything` or `trainer.callbacks`.
    """

    def __init__(self, arguments: ArgsType, subcommands: Iterable[str]) -> None:
        self.subcommand: str | None = None
        self.checkpoint: Any = None
        self.names: set[str] = set()
        self.classes: set[str] = set()
        if isinstance(arguments, dict | Namespace):
            self.subcommand = arguments.get("subcommand")
            self._read(arguments.get(self.subcommand) if self.subcommand else None)
            return
        words = list(sys.argv[1:] if arguments is None else arguments)
        self.subcommand = next((word for word in words if word in subcommands), None)
        for word, following in pairwise([*words, ""]):
            name, equals, value = word.partition("=")
            value = value if equals else following
            if name in {"-c", "--config"}:
                self._read(read_config(located(value)))
            elif word.startswith("-c"):
                self._read(read_config(located(word.removeprefix("-c"))))
            elif name == f"--{TRAINER}":
                self._read({TRAINER: read_config(value)})
            elif name.startswith("--"):
                self._read({name.removeprefix("--"): value})

    def _read(self, config: Any) -> None:
        for key, value in entries(config).items():
            if key == "ckpt_path":
                self.checkpoint = value
            inner = entries(value)
            if key in HYPER_PARAMETERS and (named := inner.get("class_path") or (not inner and value)):
                self.classes.add(str(named))
            within = {f"{key}.{name}": each for name, each in inner.items()} if key == TRAINER else {key: value}
            self.names |= {name for name, each in within.items() if not _refines(each)}

    @property
    def checkpoint_path(self) -> Path | None:
        """The checkpoint, if a subcommand is given a local path; anything else is validated later."""
        name = self.checkpoint
        if not self.subcommand or not isinstance(name, str) or not name:
            return None
        return None if name in _FETCHED or "://" in name or name.startswith("registry") else Path(name)


def _refines(value: Any) -> bool:
    """Whether a value changes arguments of a class without naming the class."""
    return isinstance(value, Mapping | Namespace) and "class_path" not in value
