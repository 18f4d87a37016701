"""Arguments of the run that wrote a checkpoint, as defaults of the command that is given the checkpoint."""

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lightning_sparsegrad.callbacks._run_folder import OfOneRun
from lightning_sparsegrad.cli._diagnosis import HINT, diagnose
from lightning_sparsegrad.cli._replacing import read_config
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._checkpoints import HYPER_PARAMETERS, StoredRun, stored_run
from lightning_sparsegrad.untrusted._imports import named_by_checkpoint
from lightning_sparsegrad.untrusted._jsonargparse import find

_TRAINER = "trainer"
_OF_EVALUATIONS = ("precision",)  # the Trainer's arguments that belong to the model rather than to the fit
_LOOKED_UP = {"best", "last", "hpc"}  # no file names: Lightning finds them
_VERSIONED = ("CSVLogger", "TensorBoardLogger")  # each run has a folder of its own, unless it is told which


class Given:
    """What a command is given, before it is parsed.

    Args:
        arguments: Its arguments; by default those of the process.
        subcommands: The names of subcommands.

    Attributes:
        subcommand: The first of them that is named.
        checkpoint: The last `ckpt_path` that flags, files or a dict name.
        classes: The classes of model and data that are named.
        names: What replaces a value whole: `trainer.callbacks`, in a flag or a file.
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
                self._read(read_config(value))
            elif name == f"--{_TRAINER}":
                self._read({_TRAINER: read_config(value)})
            elif name == "--ckpt_path":
                self.checkpoint = value
            elif name.startswith("--"):
                if name.removeprefix("--").removesuffix(".class_path") in HYPER_PARAMETERS:
                    self.classes.add(value)
                self.names.add(name[2:])  # `--trainer.callbacks+=X` is another one

    def _read(self, config: Any) -> None:
        entries = config.as_dict() if isinstance(config, Namespace) else config
        for name, value in _leaves(entries) if isinstance(entries, Mapping) else ():
            if name == "ckpt_path":
                self.checkpoint = value
            if name in HYPER_PARAMETERS:
                self.classes.add(str(value.get("class_path") if isinstance(value, Mapping) else value))
            self.names.add(name)


def _leaves(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield `trainer.callbacks` and its value, for the Trainer's arguments; the other keys of a config as they are."""
    for key, value in entries.items():
        if key == _TRAINER and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", each) for name, each in value.items() if not _refines(each))
        else:
            yield key, value


def _refines(value: Any) -> bool:
    """Whether a value changes arguments of a class that is named elsewhere."""
    return isinstance(value, Mapping) and "class_path" not in value


def stored_defaults(given: Given) -> StoredRun | None:
    """Return what the checkpoint of a command says of the run that wrote it, `None` if it names none.

    Raises:
        ConfigurationError: If it cannot be read.
        FileNotFoundError: If there is no such file.
    """
    checkpoint = given.checkpoint
    if not given.subcommand or not isinstance(checkpoint, str) or not checkpoint:  # the parser's to refuse
        return None
    if checkpoint in _LOOKED_UP or "://" in checkpoint or checkpoint.startswith("registry"):
        return None  # Lightning fetches it
    path = Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(checkpoint)
    return stored_run(path, given.classes) if path.is_file() else None  # a sharded checkpoint is a folder


def set_defaults(parser: LightningArgumentParser, given: Given, stored: StoredRun) -> None:
    """Have a parser go by what a run was told, where the command is not given anything else.

    To resume a fit, that is everything. Of the Trainer's arguments an evaluation takes the precision alone: machine,
    logger and callbacks were the fit's. The resumed fit logs into a new folder beside the old one.

    Raises:
        ConfigurationError: If the checkpoint says what no config file could, or names classes that are not there.
    """
    config = deepcopy(stored.config)
    trainer = config.pop(_TRAINER, None)
    trainer = dict(trainer) if isinstance(trainer, Mapping) else {}
    kept = trainer if given.subcommand == "fit" else {name: trainer.get(name) for name in _OF_EVALUATIONS}
    kept = {name: value for name, value in kept.items() if f"{_TRAINER}.{name}" not in given.names}
    with named_by_checkpoint(stored.path, but=given.classes):
        config |= {f"{_TRAINER}.{name}": value for name, value in _for_a_new_run(kept).items()}
    known = [action.dest for action in parser._actions]  # argparse has no public list
    defaults: dict[str, Any] = {}
    for key, value in config.items():
        if key in given.names and key not in HYPER_PARAMETERS:
            continue
        if key in known or any(name.startswith(f"{key}.") for name in known):
            defaults[key] = value
        elif value is not None:
            warnings.warn(f"`{stored.path}` is of a run with `{key}`, which is no option here: left out.", stacklevel=2)
    with named_by_checkpoint(stored.path, but=given.classes):
        _require_classes(defaults, stored)
        _check(parser, defaults, stored)
    parser.set_defaults(defaults)


def _require_classes(defaults: Mapping[str, Any], stored: StoredRun) -> None:
    for key, value in defaults.items():
        for name in _class_paths(value) if key not in HYPER_PARAMETERS else ():
            if find(name) is None:
                raise ConfigurationError(
                    f"`{stored.path}` should be resumed with the classes of its run. Found no `{name}`, of `{key}`: "
                    f"make it importable, or give --{key}."
                )


def _for_a_new_run(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Trainer's arguments without what would lead into the folder of the run that was given them."""
    loggers = trainer.get("logger")
    for logger in loggers if isinstance(loggers, Sequence) else [loggers]:
        if isinstance(logger, Mapping) and str(logger.get("class_path")).rpartition(".")[2] in _VERSIONED:
            (logger.get("init_args") or {}).pop("version", None)
    callbacks = trainer.get("callbacks")
    if isinstance(callbacks, list):
        return {**trainer, "callbacks": [each for each in callbacks if not _is_of_one_run(each)]}
    return dict(trainer)


def _is_of_one_run(callback: Any) -> bool:
    cls = find(callback.get("class_path")) if isinstance(callback, dict) else None
    return isinstance(cls, type) and issubclass(cls, OfOneRun)


def _class_paths(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield value["class_path"]
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _class_paths(each)


def _check(parser: LightningArgumentParser, defaults: Mapping[str, Any], stored: StoredRun) -> None:
    """Check values as those of a config file are; jsonargparse does not look at defaults."""
    exits, parser.exit_on_error = parser.exit_on_error, False
    try:
        parser.parse_object(deepcopy(dict(defaults)), defaults=False, _skip_validation=True)
    except Exception as error:
        reason = diagnose(str(error), parser).removesuffix(HINT)
        raise ConfigurationError(f"The config in `{stored.path}` cannot be used. {reason.strip()}") from error
    finally:
        parser.exit_on_error = exits


def require_same_seed(config: Mapping[str, Any], stored: StoredRun) -> None:
    """Refuse a seed that would be without effect: an exact resume restores the random states of the run before."""
    seed, now = stored.config.get("seed_everything"), config.get("seed_everything")
    if (
        stored.resumes_exactly
        and config.get("exact_resume")
        and isinstance(seed, int)
        and (type(now), now) != (type(seed), seed)  # False is no 0
    ):
        raise ConfigurationError(
            f"Parameter `seed_everything` should be {seed}, as in the run that is resumed, or go with "
            f"`--exact_resume=false`: an exact resume restores its random states. Found `seed_everything = {now}`."
        )


def where_paths_start(error: BaseException, stored: StoredRun | None) -> str:
    """Return a sentence for an error about a file that a run named, and that does not lie in this folder; else none."""
    if stored is None or stored.folder in {"", str(Path.cwd())}:
        return ""
    named = [
        value for value in _strings(stored.config) if re.search(rf"(?<![\w/]){re.escape(value)}(?!\w)", str(error))
    ]
    lost = [value for value in named if Path(value).suffix or "/" in value or Path(stored.folder, value).exists()]
    for value in sorted(lost, key=len, reverse=True):
        if not Path(value).is_absolute() and not Path(value).exists():
            return (
                f" Relative paths of `{stored.path}` start in `{stored.folder}`: give `{value}` anew, or start there."
            )
    return ""


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    if isinstance(value, Mapping):
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _strings(each)
