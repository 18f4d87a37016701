"""The arguments stored in a checkpoint, as defaults of the command that loads it."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from lightning_sparsegrad.callbacks._run_folder import OfOneRun
from lightning_sparsegrad.cli._diagnosis import diagnose
from lightning_sparsegrad.cli._faults import HINT
from lightning_sparsegrad.cli._given import TRAINER, Given
from lightning_sparsegrad.cli._jsonargparse import check, options
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._checkpoints import HYPER_PARAMETERS, StoredRun, stored_run
from lightning_sparsegrad.untrusted._imports import named_by_checkpoint
from lightning_sparsegrad.untrusted._jsonargparse import find

_OF_EVALUATIONS = ("precision",)  # the Trainer's arguments that belong to the model rather than to the fit
_VERSIONED = ("CSVLogger", "TensorBoardLogger")  # they open a new folder for each run unless `version` is set


def set_stored_defaults(parser: LightningArgumentParser, given: Given) -> StoredRun | None:
    """Make the arguments stored in a checkpoint the parser's defaults, except those that the command gives.

    A resumed fit takes all arguments. An evaluation takes only the precision of the Trainer's arguments: devices,
    logger and callbacks were the fit's. The resumed fit logs into a new folder beside the old one.

    Returns:
        The stored run; `None` if the command names no checkpoint, or a sharded one, which is a folder.

    Raises:
        ConfigurationError: If the checkpoint cannot be read, stores arguments that a config file could not have, or
            names classes that do not exist.
    """
    path = given.checkpoint_path
    if path is not None and not path.exists():
        parser.error(f"File does not exist: '{given.checkpoint}'")
    if path is None or not path.is_file():
        return None
    stored = stored_run(path, given.classes)
    config = deepcopy(stored.config)
    trainer = config.pop(TRAINER, None)
    trainer = dict(trainer) if isinstance(trainer, Mapping) else {}
    kept = trainer if given.subcommand == "fit" else {name: trainer.get(name) for name in _OF_EVALUATIONS}
    kept = {name: value for name, value in kept.items() if f"{TRAINER}.{name}" not in given.names}
    known = options(parser)
    defaults: dict[str, Any] = {}
    with named_by_checkpoint(path, but=given.classes):
        config |= {f"{TRAINER}.{name}": value for name, value in _for_a_new_run(kept).items()}
        for key, value in config.items():
            if key in given.names and key not in HYPER_PARAMETERS:
                continue
            if key in known or any(name.startswith(f"{key}.") for name in known):
                defaults[key] = value
            elif value is not None:
                warnings.warn(f"`{path}` stores `{key}`, which is not an option here: it is ignored.", stacklevel=2)
        for key, value in defaults.items():
            for entry, name in _leaves(value) if key not in HYPER_PARAMETERS else ():
                if entry == "class_path" and find(name) is None:
                    raise ConfigurationError(
                        f"`{path}` should be resumed with the classes of its run. Found no `{name}`, used by `{key}`: "
                        f"make it importable, or give --{key}."
                    )
        try:
            check(parser, deepcopy(defaults))  # jsonargparse does not validate defaults
        except Exception as error:
            reason = diagnose(str(error), parser).removesuffix(HINT)
            raise ConfigurationError(f"The config in `{path}` cannot be used. {reason.strip()}") from error
    parser.set_defaults(defaults)
    return stored


def _for_a_new_run(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Trainer's arguments without those that would write into the folder of the stored run."""
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


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf of nested mappings and lists with its key; an item of a list has the key of the list."""
    if isinstance(value, Mapping | list):
        for name, each in value.items() if isinstance(value, Mapping) else ((key, each) for each in value):
            yield from _leaves(each, name)
    else:
        yield key, value


def require_same_seed(config: Mapping[str, Any], stored: StoredRun) -> None:
    """Refuse a seed that would have no effect: an exact resume restores the random states of the stored run."""
    seed, now = stored.config.get("seed_everything"), config.get("seed_everything")
    if (
        stored.resumes_exactly
        and config.get("exact_resume")
        and isinstance(seed, int)
        and (type(now), now) != (type(seed), seed)  # False is no 0
    ):
        raise ConfigurationError(
            f"Parameter `seed_everything` should be {seed}, as in the run that is resumed: an exact resume restores "
            f"its random states. To change the seed, add `--exact_resume=false`. Found `seed_everything = {now}`."
        )


def where_paths_start(error: BaseException, stored: StoredRun | None) -> str:
    """Return a hint for an error about a relative path of the stored run that does not exist here; else nothing."""
    if stored is None or stored.folder in {"", str(Path.cwd())}:
        return ""
    values = [value for _, value in _leaves(stored.config) if isinstance(value, str) and value]
    named = [value for value in values if re.search(rf"(?<![\w/]){re.escape(value)}(?!\w)", str(error))]
    lost = [value for value in named if Path(value).suffix or "/" in value or Path(stored.folder, value).exists()]
    for value in sorted(lost, key=len, reverse=True):
        if not Path(value).is_absolute() and not Path(value).exists():
            return (
                f" Relative paths in `{stored.path}` start in `{stored.folder}`: run the command there, or give "
                f"another path for `{value}`."
            )
    return ""
